package knob

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

func TestParseSetting(t *testing.T) {
	const guest, stack, upstream = tcpstate.Guest, tcpstate.Stack, tcpstate.Upstream
	tests := []struct {
		text string
		want Setting
	}{
		{"time-wait.timeout=5s", Setting{Key: "time-wait.timeout", Duration: 5 * time.Second}},
		{"time-wait.timeout=0", Setting{Key: "time-wait.timeout"}},
		{"time-wait.timeout=0s", Setting{Key: "time-wait.timeout"}},
		{"stack.time-wait.timeout=240s", Setting{Key: "time-wait.timeout", Leg: stack, Duration: 4 * time.Minute}},
		{"guest.time-wait.timeout=1s", Setting{Key: "time-wait.timeout", Leg: guest, Duration: time.Second}},
		{"time-wait.reuse=off", Setting{Key: "time-wait.reuse", Word: "off"}},
		{"guest.time-wait.reuse=on", Setting{Key: "time-wait.reuse", Leg: guest, Word: "on"}},
		{"time-wait.reuse=loopback", Setting{Key: "time-wait.reuse", Word: "loopback"}},
		{"fin-timeout=1m30s", Setting{Key: "fin-timeout", Duration: 90 * time.Second}},
		{"guest.fin-timeout=5s", Setting{Key: "fin-timeout", Leg: guest, Duration: 5 * time.Second}},
		{"upstream.fin-timeout=250ms", Setting{Key: "fin-timeout", Leg: upstream, Duration: 250 * time.Millisecond}},
		{"half-close-timeout=never", Setting{Key: "half-close-timeout"}},
		{"half-close-timeout=0", Setting{Key: "half-close-timeout"}},
		{"half-close-timeout=1h", Setting{Key: "half-close-timeout", Duration: time.Hour}},
		{"syn-backlog=1", Setting{Key: "syn-backlog", Int: 1}},
		{"receive-buffer=64k-4M", Setting{Key: "receive-buffer", Low: 64 << 10, Hi: 4 << 20}},
		{"guest.send-buffer=65537", Setting{Key: "send-buffer", Leg: guest, Low: 65537, Hi: 65537}},
		{"port-range=40000-40009", Setting{Key: "port-range", Low: 40000, Hi: 40009}},
		{"congestion-control=bbr", Setting{Key: "congestion-control", Word: "bbr"}},
		{"reserved-ports=80,9000-9010", Setting{Key: "reserved-ports", Word: "80,9000-9010"}},
		{"reserved-ports=none", Setting{Key: "reserved-ports", Word: "none"}},
		{"stack.syn-backlog=1048576", Setting{Key: "syn-backlog", Leg: stack, Int: 1 << 20}},
	}
	for _, tt := range tests {
		_, tt.want.Text, _ = strings.Cut(tt.text, "=")
		got, err := ParseSetting(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("ParseSetting(%q) = %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
		if got.String() != tt.text {
			t.Errorf("ParseSetting(%q).String() = %q", tt.text, got.String())
		}
	}
}

func TestStringOfSettingMadeByHand(t *testing.T) {
	for _, tt := range []struct {
		setting Setting
		want    string
	}{
		{Setting{Key: "fin-timeout", Leg: tcpstate.Guest, Duration: time.Minute}, "guest.fin-timeout=60s"},
		{Setting{Key: "fin-timeout", Duration: time.Hour}, "fin-timeout=1h"},
		{Setting{Key: "fin-timeout", Duration: 100 * time.Minute}, "fin-timeout=1h40m"},
		{Setting{Key: "time-wait.timeout"}, "time-wait.timeout=0"},
		{Setting{Key: "half-close-timeout"}, "half-close-timeout=never"},
		{Setting{Key: "syn-backlog", Int: 16}, "syn-backlog=16"},
		{Setting{Key: "time-wait.reuse", Word: "on"}, "time-wait.reuse=on"},
		{Setting{Key: "receive-buffer", Low: 64 << 10, Hi: 4 << 20}, "receive-buffer=64k-4M"},
		{Setting{Key: "send-buffer", Low: 65537, Hi: 65537}, "send-buffer=65537-65537"},
		{Setting{Key: "port-range", Low: 40000, Hi: 40009}, "port-range=40000-40009"},
		{Setting{Key: "reserved-ports", Word: "80"}, "reserved-ports=80"},
		{Setting{Key: "no-such", Word: "on"}, "no-such=on"},
	} {
		if got := tt.setting.String(); got != tt.want {
			t.Errorf("String() = %q, want %q", got, tt.want)
		}
	}
}

func TestParseSettingFaults(t *testing.T) {
	tests := []struct {
		text, message, hint string // parts of them
	}{
		{"", "no value", "KEY=VALUE"},
		{"fin-timeout", "no value", "KEY=VALUE"},
		{"fin-timeout:5s", "no value", "KEY=VALUE"},
		// Keys.
		{"=5s", `no knob ""`, `"tcpbox explain" lists the knobs`},
		{"fin-timout=5s", `no knob "fin-timout"`, "did you mean fin-timeout?"},
		{"fin_timeout=5s", "no knob", "did you mean fin-timeout?"},
		{"tcp_fin_timeout=5s", "no knob", "did you mean fin-timeout?"},
		{"FIN-TIMEOUT=5s", "no knob", "did you mean fin-timeout?"},
		{"tw-reuse=on", "no knob", "did you mean time-wait.reuse?"},
		{"tcp_tw_reuse=1", "no knob", "did you mean time-wait.reuse?"},
		{"time-wait-timeout=5s", "no knob", "did you mean time-wait.timeout?"},
		{"gest.fin-timeout=5s", "no knob", "did you mean guest.fin-timeout?"},
		{"guest.syn-backlogs=5", "no knob", "did you mean guest.syn-backlog?"},
		{"host.fin-timeout=5s", "no knob", "did you mean guest.fin-timeout?"},
		{"guest.stack.fin-timeout=5s", "no knob", "did you mean guest.fin-timeout?"},
		{"zero-window=5s", "no knob", "did you mean window-scaling? "},
		{"backlog=5", "no knob", "did you mean syn-backlog or accept-backlog? "},
		{"xyzzyxyzzy=5", "no knob", `"tcpbox explain" lists the knobs`},
		{strings.Repeat("fin-timeout", 9) + "=5s", "no knob", `"tcpbox explain" lists the knobs`},
		{" fin-timeout=5s", "no knob", "did you mean fin-timeout?"},
		{"\x1b[2J=5s", `no knob "\x1b[2J"`, `"tcpbox explain" lists the knobs`},
		// Durations.
		{"fin-timeout=", `"" is not a duration`, "from 1ms to 24h"},
		{"fin-timeout=5", `"5" has no unit`, "from 1ms to 24h"},
		{"fin-timeout=5 s", "not a duration", "such as 250ms or 5s"},
		{"fin-timeout=5sec", "not a duration", "such as 250ms or 5s"},
		{"fin-timeout=1d", "not a duration", "such as 250ms or 5s"},
		{"fin-timeout=never", "not a duration", "from 1ms to 24h"},
		{"fin-timeout=0", "0 is less than 1ms", "from 1ms to 24h"},
		{"fin-timeout=1us", "1µs is less than 1ms", "from 1ms to 24h"},
		{"fin-timeout=25h", "25h is more than 24h", "from 1ms to 24h"},
		{"fin-timeout=9999999999999h", "not a duration", "from 1ms to 24h"},
		{"time-wait.timeout=-5s", "-5s is less than 0", "0 or more"},
		{"time-wait.timeout=60", "no unit", "0 or more"},
		{"half-close-timeout=-1s", "-1s is less than 0", "0 or never means never"},
		// Numbers.
		{"syn-backlog=0", "0 is less than 1", "from 1 to 1048576"},
		{"syn-backlog=-1", "-1 is less than 1", "from 1 to 1048576"},
		{"syn-backlog=1048577", "1048577 is more than 1048576", "from 1 to 1048576"},
		{"syn-backlog=99999999999999999999", "too large", "from 1 to 1048576"},
		{"syn-backlog=5s", "not a whole number", "from 1 to 1048576"},
		{"syn-backlog=1k", "not a whole number", "from 1 to 1048576"},
		{"syn-backlog=", "not a whole number", "from 1 to 1048576"},
		// Words.
		{"time-wait.reuse=1", `"1" is not a value`, "off, loopback or on"},
		{"time-wait.reuse=", `"" is not a value`, "off, loopback or on"},
		{"time-wait.reuse=ON", `"ON" is not a value`, "off, loopback or on"},
		// Sizes, ranges, names and ports.
		{"receive-buffer=1x", `"1x" is not a number of bytes`, "such as 64k-4M"},
		{"receive-buffer=1k", "1k is less than 4k", "from 4k to 1G"},
		{"receive-buffer=4M-64k", "4M is more than 64k, which comes after it", "such as 64k-4M"},
		{"send-buffer=64k-", `"" is not a number of bytes`, "or one for both"},
		{"send-buffer=64k-2G", "2G is more than 1G", "from 4k to 1G"},
		{"port-range=40000", "not two numbers", "such as 40000-49999"},
		{"port-range=40000-x", "not two numbers", "such as 40000-49999"},
		{"port-range=0-100", "0 is less than 1", "from 1 to 65535"},
		{"port-range=50000-40000", "50000 is more than 40000", "from 1 to 65535"},
		{"congestion-control=", `"" is not a name`, "letters, digits"},
		{"congestion-control=../../x", "is not a name", "letters, digits"},
		{"reserved-ports=0", "not a list of ports", "or none"},
		{"reserved-ports=9-8", "not a list of ports", "or none"},
		{"reserved-ports=80,", "not a list of ports", "or none"},
	}
	for _, tt := range tests {
		s, err := ParseSetting(tt.text)
		var fault *Error
		if !errors.As(err, &fault) {
			t.Errorf("ParseSetting(%q) = %+v, %v; want an *Error", tt.text, s, err)
			continue
		}
		if s != (Setting{}) || fault.Input != tt.text || !strings.Contains(fault.Message, tt.message) || !strings.Contains(fault.Hint, tt.hint) {
			t.Errorf("ParseSetting(%q) = %+v, %+v;\nwant message ...%s..., hint ...%s...", tt.text, s, *fault, tt.message, tt.hint)
		}
		if strings.ContainsAny(err.Error()+fault.Hint, "\x1b\n") {
			t.Errorf("ParseSetting(%q): the error passes control characters on: %q", tt.text, err.Error())
		}
	}
}

func FuzzParseSetting(f *testing.F) {
	for _, seed := range []string{
		"time-wait.timeout=5s", "guest.fin-timeout=5s", "upstream.fin-timeout=1m30s", "half-close-timeout=never", "syn-backlog=1024",
		"time-wait.reuse=loopback", "stack.time-wait.timeout=0", "fin-timeout", "=", "guest.=", "stack..=1", "fin-timeout=-1ns",
		"syn-backlog=+7", "receive-buffer=64k-4M", "port-range=1-2", "reserved-ports=1,3-4", "congestion-control=bbr", "rto.min=1ms", "tcp_fin_timeout=5", "guest.guest.syn-backlog=1", "\xff=\x00", "fin-timeout=5s=6s",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSetting(text)
		if err != nil {
			var fault *Error
			if !errors.As(err, &fault) || fault.Hint == "" || fault.Message == "" || fault.Input != text {
				t.Fatalf("ParseSetting(%q): %#v is not an *Error with a message and a hint", text, err)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(fault.Hint, "\n") {
				t.Fatalf("ParseSetting(%q): %v is more than one line", text, err)
			}
			return
		}
		if s.String() != text {
			t.Fatalf("ParseSetting(%q).String() = %q", text, s.String())
		}
		if err := s.check(); err != nil {
			t.Fatalf("ParseSetting(%q) is out of range: %v", text, err)
		}
		// Without the text as written, the same value.
		bare := s
		bare.Text = ""
		again, err := ParseSetting(bare.String())
		again.Text = ""
		if err != nil || again != bare {
			t.Fatalf("ParseSetting(%q) = %+v, %v; want %+v", bare.String(), again, err, bare)
		}
		// The guest's sysctls are for exactly what the guest's leg carries, but for
		// what it carries by other means.
		guest := lookup(s.Key).Guest
		sysctls, err := GuestSysctls(s)
		want := guest.Carries && guest.outside(s) == "" && (s.Leg == 0 || s.Leg == tcpstate.Guest)
		if (err == nil) != want || (len(sysctls) > 0) != (want && lookup(s.Key).sysctls != nil) {
			t.Fatalf("GuestSysctls(%v) = %v, %v; want that it carries it: %v", s, sysctls, err, want)
		}
	})
}

func TestGuestSysctls(t *testing.T) {
	for _, tt := range []struct{ setting, want, fault string }{
		{"fin-timeout=5s", "net.ipv4.tcp_fin_timeout = 5", ""},
		{"guest.fin-timeout=2m", "net.ipv4.tcp_fin_timeout = 120", ""},
		{"guest.time-wait.reuse=off", "net.ipv4.tcp_tw_reuse = 0", ""},
		{"time-wait.reuse=on", "net.ipv4.tcp_tw_reuse = 1", ""},
		{"time-wait.reuse=loopback", "net.ipv4.tcp_tw_reuse = 2", ""},
		{"syn-backlog=16", "net.ipv4.tcp_max_syn_backlog = 16", ""},
		{"time-wait.reuse-delay=1500ms", "net.ipv4.tcp_tw_reuse_delay = 1500", ""},
		{"time-wait.max=0", "net.ipv4.tcp_max_tw_buckets = 0", ""},
		{"time-wait.rfc1337=on", "net.ipv4.tcp_rfc1337 = 1", ""},
		{"accept-backlog=128", "net.core.somaxconn = 128", ""},
		{"accept-overflow=reset", "net.ipv4.tcp_abort_on_overflow = 1", ""},
		{"syn-cookies=always", "net.ipv4.tcp_syncookies = 2", ""},
		{"keepalive.idle=2m", "net.ipv4.tcp_keepalive_time = 120", ""},
		{"rto.min=5ms", "net.ipv4.tcp_rto_min_us = 5000", ""},
		{"rto.max=1s", "net.ipv4.tcp_rto_max_ms = 1000", ""},
		{"congestion-control=reno", "net.ipv4.tcp_congestion_control = reno", ""},
		{"ecn=passive", "net.ipv4.tcp_ecn = 2", ""},
		{"fast-open=both", "net.ipv4.tcp_fastopen = 3", ""},
		{"receive-buffer=64k-4M", "net.ipv4.tcp_rmem = 4096 65536 4194304", ""},
		{"send-buffer=64k", "net.ipv4.tcp_wmem = 4096 65536 65536", ""},
		{"port-range=40000-40009", "net.ipv4.ip_local_port_range = 40000 40009", ""},
		{"reserved-ports=80,9000-9010", "net.ipv4.ip_local_reserved_ports = 80,9000-9010", ""},
		{"reserved-ports=none", "net.ipv4.ip_local_reserved_ports = ", ""},
		{"keepalive.interval=1500ms", "", "whole seconds, not 1.5s"},
		{"fin-timeout=2500ms", "", "whole seconds, not 2.5s"},
		{"time-wait.timeout=2m", "", "at most 60s, not 2m"},
		{"half-close-timeout=5s", "", "no timer for a half-closed connection"},
		{"stack.fin-timeout=5s", "", "for the stack leg"},
	} {
		s, err := ParseSetting(tt.setting)
		if err != nil {
			t.Fatal(err)
		}
		sysctls, err := GuestSysctls(s)
		if tt.fault != "" {
			var fault *Error
			if !errors.As(err, &fault) || !strings.Contains(err.Error(), tt.fault) || fault.Hint == "" {
				t.Errorf("GuestSysctls(%s) = %v, %v; want a fault with %q and a hint", tt.setting, sysctls, err, tt.fault)
			}
			continue
		}
		if err != nil || len(sysctls) != 1 || sysctls[0].String() != tt.want {
			t.Errorf("GuestSysctls(%s) = %v, %v; want %s", tt.setting, sysctls, err, tt.want)
		}
	}
	if _, err := GuestSysctls(Setting{Key: "syn-backlog"}); err == nil {
		t.Error("GuestSysctls takes a setting made by hand that is out of range")
	}
}
