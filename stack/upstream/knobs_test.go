package upstream

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

var _ knob.Carrier = (*Host)(nil)

func finTimeout(d time.Duration, leg tcpstate.Leg) knob.Setting {
	return knob.Setting{Key: "fin-timeout", Leg: leg, Duration: d, Text: d.String()}
}

func TestPlan(t *testing.T) {
	h := &Host{}
	for _, row := range []struct {
		setting knob.Setting
		applied bool
		text    string // a part of it
	}{
		{finTimeout(5*time.Second, 0), true, "TCP_LINGER2 = 5 s"},
		{finTimeout(120*time.Second, tcpstate.Upstream), true, "TCP_LINGER2 = 120 s"},
		{finTimeout(1500*time.Millisecond, 0), false, "whole seconds"},
		{finTimeout(121*time.Second, 0), false, "at most 2m"},
		{finTimeout(0, 0), false, "less than 1ms"},
		{knob.Setting{Key: "time-wait.timeout", Duration: time.Second}, false, "60 s"},
		{knob.Setting{Key: "time-wait.reuse", Word: "on"}, false, "tcp_tw_reuse"},
		{knob.Setting{Key: "syn-backlog", Int: 16}, false, "no listener"},
		{knob.Setting{Key: "half-close-timeout", Duration: time.Second}, false, "no timer"},
		{knob.Setting{Key: "something.else", Int: 1}, false, "no such knob"},
	} {
		got := h.Plan([]knob.Setting{row.setting})
		if len(got) != 1 || got[0].Leg != tcpstate.Upstream || got[0].Key != row.setting.Key ||
			got[0].Applied != row.applied || !strings.Contains(got[0].Text, row.text) {
			t.Errorf("Plan(%s = %v) = %+v, want applied %v and %q", row.setting.Key, row.setting.Duration, got, row.applied, row.text)
		}
	}
	if got := h.Plan([]knob.Setting{finTimeout(time.Second, tcpstate.Stack)}); len(got) != 0 {
		t.Errorf("Plan of another leg's setting = %+v", got)
	}
}

func TestApply(t *testing.T) {
	h := &Host{}
	linger2 := func() int {
		t.Helper()
		c, _ := pair(t, h)
		defer c.Close()
		n, err := optionOf(c, unix.IPPROTO_TCP, unix.TCP_LINGER2)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	unset := linger2()
	backlog := knob.Setting{Key: "syn-backlog", Leg: tcpstate.Upstream, Int: 16, Text: "16"}
	err := h.Apply([]knob.Setting{finTimeout(5*time.Second, 0), backlog})
	if err == nil || !strings.Contains(err.Error(), "upstream.syn-backlog=16") {
		t.Errorf("Apply of what cannot be = %v", err)
	}
	if n := linger2(); n != unset {
		t.Errorf("after a failed Apply TCP_LINGER2 = %d, want %d", n, unset)
	}
	backlog.Leg = 0 // another leg may carry it
	if err := h.Apply([]knob.Setting{finTimeout(5*time.Second, 0), backlog, finTimeout(time.Hour, tcpstate.Stack)}); err != nil {
		t.Error(err)
	}
	if n := linger2(); n != 5 {
		t.Errorf("TCP_LINGER2 = %d, want 5", n)
	}
	if err := h.Apply([]knob.Setting{finTimeout(time.Hour, tcpstate.Upstream)}); err == nil {
		t.Error("Apply of an hour succeeds")
	}
}

// A socket that was closed and whose peer never closes leaves FIN-WAIT-2 when
// its time is over, while one with the default stays.
func TestFinTimeoutIsTrue(t *testing.T) {
	s := newSpace(t, "")
	l := s.listen("127.0.0.1:80")
	orphan := func(h *Host) netip.AddrPort {
		t.Helper()
		c, err := dial(t.Context(), h, "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { peer.Close() })
		c.Close()
		return c.LocalAddr()
	}
	short := &Host{Socket: s.socket}
	if err := short.Apply([]knob.Setting{finTimeout(time.Second, 0)}); err != nil {
		t.Fatal(err)
	}
	usual := &Host{Socket: s.socket}

	brief, stays := orphan(short), orphan(usual)
	eventually(t, "the socket is in FIN-WAIT-2", func() bool { return s.inFinWait2(brief) })
	eventually(t, "the socket has left FIN-WAIT-2", func() bool { return !s.inFinWait2(brief) })
	if !s.inFinWait2(stays) {
		t.Error("the socket with the default has left FIN-WAIT-2 too")
	}
}

// inFinWait2 reports whether the namespace has a socket of that local port in
// FIN-WAIT-2, which /proc/net/tcp calls 05.
func (s *space) inFinWait2(local netip.AddrPort) bool {
	port := fmt.Sprintf(":%04X", local.Port())
	for line := range strings.Lines(s.procNet("tcp")) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], port) && f[3] == "05" {
			return true
		}
	}
	return false
}

// Whatever the table says that upstream carries, a Host carries.
func TestTableIsTrueOfTheHost(t *testing.T) {
	h := &Host{}
	for _, def := range knob.Table() {
		setting, err := knob.ParseSetting(def.Key + "=" + def.Example())
		if err != nil {
			t.Errorf("%s: %v", def.Key, err)
			continue
		}
		if o := h.Plan([]knob.Setting{setting})[0]; o.Applied != def.Upstream.Carries && !strings.Contains(o.Text, "this kernel has no") {
			t.Errorf("%s: Plan = %+v, the table says %v", def.Key, o, def.Upstream.Carries)
		}
	}
}
