package policy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

func TestParseFault(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		// Impairments.
		{"loss 5%", "loss 5%"},
		{"loss 100%", "loss 100%"},
		{"delay 100ms ±20ms out", "delay 100ms ±20ms out"},
		{"delay 100ms±20ms", "delay 100ms ±20ms"},
		{"delay 100ms ± 20ms ordered", "delay 100ms ±20ms ordered"},
		{"delay 100ms +-20ms", "delay 100ms ±20ms"},
		{"delay 100ms +/-20ms", "delay 100ms ±20ms"},
		{"rate 10mbit", "rate 10mbit"},
		{"rate 1.5mbit in queue 50ms", "rate 1500kbit queue 50ms in"},
		{"dup 1%", "dup 1%"},
		{"dup 3ms 1%", "dup 3ms 1%"},
		{"dup", "dup"},
		{"reorder 5%", "reorder 5%"},
		{"reorder 5% by 3", "reorder 5% by 3"},
		{"corrupt 0.1%", "corrupt 0.1%"},
		{"mtu 1400", "mtu 1400"},
		// Rules about packets.
		{"drop first ack when stack=FIN-WAIT-1", "drop first ack when stack=FIN-WAIT-1"},
		{"drop first 1 ack when stack=fin_wait1", "drop first ack when stack=FIN-WAIT-1"},
		{"hold synack 3s dst=192.0.2.5:5432", "hold 3s synack dst=192.0.2.5:5432"},
		{"rst 1% when ESTABLISHED age>30s", "rst 1% when ESTABLISHED age>30s"},
		{"rst guest data", "rst guest data"},
		{"rst both", "rst"},
		{"blackhole when idle>350s", "blackhole when idle>5m50s"},
		{"blackhole idle>350s", "blackhole when idle>5m50s"},
		{"fail first 2 connects", "fail first 2"},
		{"fail timeout dst=:443", "fail timeout dst=:443"},
		{"fail syn refused", "fail"},
		{"replay fit nth 3 data in", "replay fit nth 3 data in"},
		// Which packets.
		{"drop every 10 data", "drop every 10 data"},
		{"drop syn-ack inbound", "drop synack in"},
		{"drop any outbound", "drop out"},
		{"drop udp dst=53", "drop udp dst=:53"},
		{"drop icmp", "drop icmp"},
		{"drop src=198.18.0.0/24 dst=[2001:db8::/32]:8000-8080", "drop src=198.18.0.0/24 dst=[2001:db8::/32]:8000-8080"},
		{"drop dst=::1", "drop dst=::1"},
		{"drop option=sack", "drop option=sack"},
		{"DROP RST OPTION=TS", "drop rst option=ts"},
		{"drop when guest=ESTABLISHED,CLOSE-WAIT stack=time-wait age<1h", "drop when guest=ESTABLISHED,CLOSE-WAIT stack=TIME-WAIT age<1h"},
		{"drop when FIN-WAIT-1 idle>1s idle<90s", "drop when FIN-WAIT-1 idle>1s idle<1m30s"},
	} {
		f, err := ParseFault(tt.text)
		if err != nil {
			t.Errorf("ParseFault(%q): %v", tt.text, err)
			continue
		}
		if got := f.String(); got != tt.want {
			t.Errorf("ParseFault(%q) = %q, want %q", tt.text, got, tt.want)
		}
		if again, err := ParseFault(f.String()); again != f {
			t.Errorf("ParseFault(%q) = %+v, %v, want %+v", f.String(), again, err, f)
		}
	}
}

func TestFaultMeans(t *testing.T) {
	f, err := ParseFault("rst stack 2.5% nth 7 fin out src=198.18.0.2 dst=192.0.2.0/24:80-90 option=ts when guest=FIN-WAIT-1 age>1s")
	if err != nil {
		t.Fatal(err)
	}
	want := Fault{
		Do: FaultRST, Percent: 2.5, Pick: PickNth, N: 7, Toward: tcpstate.Stack, Kind: KindFIN, Direction: tcpstate.Outbound,
		Src: FaultEnd{Prefix: netip.MustParsePrefix("198.18.0.2/32")}, Dst: FaultEnd{netip.MustParsePrefix("192.0.2.0/24"), 80, 90},
		Option: OptionTimestamps, Guest: tcpstate.SetOf(tcpstate.FinWait1), Age: FaultSpan{Over: time.Second},
	}
	if f != want {
		t.Errorf("%+v, want %+v", f, want)
	}
	if (Fault{}).String() != "nothing" || FaultAction(99).String() != "FaultAction(99)" {
		t.Error("what is no action has no word of its own")
	}
}

// TestWrongFaults: position, message and hint.
func TestWrongFaults(t *testing.T) {
	for _, tt := range []struct {
		text    string
		column  int
		message string
		hint    string
	}{
		{"", 1, "the rule is empty", "a fault is an action"},
		{"   ", 1, "the rule is empty", "a fault is an action"},
		{"los 5%", 1, `"los" is not an action`, `did you mean "loss"?`},
		{"explode", 1, `"explode" is not an action`, "the actions are loss, delay, rate"},
		{"loss", 5, "loss has no share", "5%"},
		{"loss 0%", 6, `"0%" is not a share`, "100 with a percent sign"},
		{"loss 101%", 6, `"101%" is not a share`, "100 with a percent sign"},
		{"loss nan%", 6, `"nan%" is not a share`, "100 with a percent sign"},
		{"loss 5", 6, `"5" means nothing here`, "a fault is an action"},
		{"loss 5% 6%", 9, "the share is said twice", "two rules"},
		{"delay", 6, "delay has no duration", "a number with a unit"},
		{"delay 100", 7, `"100" is not a duration`, "a number with a unit"},
		{"delay 0s", 7, "a duration of 0 does nothing", "a number with a unit"},
		{"delay 2h", 7, "2h is too long", "the longest is 1h"},
		{"delay 10ms ±20ms", 18, "the jitter of ±20ms is more than the delay", "±10ms"},
		{"delay 10ms ±x", 14, `"x" is not a duration`, "a number with a unit"},
		{"hold 3s ±1s", 9, "hold has no jitter", "delay 100ms"},
		{"rate", 5, "rate has no rate", "mbit"},
		{"rate 10mbps", 6, `"10mbps" is not a rate`, "mbit"},
		{"rate 10bit", 6, `"10bit" is not a rate of a line`, "1kbit"},
		{"mtu", 4, "mtu has no number of bytes", "mtu 1400"},
		{"mtu 20", 5, `"20" is not an MTU`, "from 68"},
		{"drop nth", 9, "nth has no number", "nth 3"},
		{"drop nth data", 10, `"data" is not a number that counts`, "nth 3"},
		{"drop nth 0", 10, `"0" is not a number that counts`, "nth 3"},
		{"drop first first", 12, "first, nth or every is said twice", "two rules"},
		{"drop dat", 6, `"dat" means nothing here`, `did you mean "data"?`},
		{"drop syn ack", 10, "the kind of packet is said twice", "two rules"},
		{"drop ESTABLISHED", 6, "a state stands behind when", "when ESTABLISHED"},
		{"drop when", 10, "when has no condition", "guest=STATE"},
		{"drop when ESTABLISHD", 11, `"establishd" is not a state`, `did you mean "established"?`},
		{"drop when stack=FIN-WAIT-1,FIN-WAIT-9", 28, `"fin-wait-9" is not a state`, "did you mean"},
		{"drop when host=LISTEN", 11, `"host" is not a key`, "did you mean"},
		{"drop dst=192.0.2.300", 10, `"192.0.2.300" is not an IPv4 address`, "four numbers"},
		{"drop dst=192.0.2.5:0", 20, `"0" is not a port`, "1 to 65535"},
		{"drop dst=", 10, "is not an end of a connection", "dst=192.0.2.5:5432"},
		{"drop option=scak", 13, `"scak" is not an option`, "sack-permitted"},
		{"drop age>x", 10, `"x" is not a duration`, "a number with a unit"},
		{"drop size>3s", 6, `"size" has no length`, "idle>350s"},
		{"drop age>3s age<2s", 19, "nothing lies between age>3s and age<2s", "larger"},
		{"fail data", 10, "fail is done to a SYN, not to data", "leave the kind out"},
		{"rst udp", 8, "udp has no connection", "leave"},
		{"drop icmp dst=:53", 18, "ICMP has no ports", "leave the port away"},
		{"drop \x00", 6, "no rule has such a character", "a fault is an action"},
		{"drop \xff", 6, "no rule has such a character", "a fault is an action"},
		{"drop " + strings.Repeat("x", 2000), 1, "longer than 1024 bytes", "a fault is an action"},
	} {
		_, err := ParseFault(tt.text)
		var wrong *ParseError
		if !errors.As(err, &wrong) {
			t.Errorf("ParseFault(%q): %v, want a ParseError", tt.text, err)
			continue
		}
		if wrong.Column != tt.column || !strings.Contains(wrong.Message, tt.message) || !strings.Contains(wrong.Hint, tt.hint) {
			t.Errorf("ParseFault(%q): column %d, %s (%s); want column %d, %s (%s)", tt.text, wrong.Column, wrong.Message, wrong.Hint, tt.column, tt.message, tt.hint)
		}
	}
}

// FuzzParseFault: what parses prints, and that parses to the same.
func FuzzParseFault(f *testing.F) {
	for _, text := range []string{
		"loss 5%", "delay 100ms ±20ms ordered out", "rate 1.5mbit queue 50ms", "mtu 1400", "dup 3ms 1%", "reorder 5% by 3",
		"drop first 3 ack src=10.0.0.0/8 dst=[2001:db8::7]:80-90 option=ts when guest=FIN-WAIT-1,connected stack=LISTEN TIME-WAIT age>1s age<2s idle>1us",
		"rst guest", "fail unreachable every 2 connects", "replay fit nth 2 data", "blackhole when idle>350s", "hold 1h2m3s",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fault, err := ParseFault(text)
		var wrong *ParseError
		if err != nil {
			if !errors.As(err, &wrong) || wrong.Hint == "" || wrong.Column < 1 || wrong.Column > len(text)+1 {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		again, err := ParseFault(fault.String())
		if err != nil || again != fault {
			t.Fatalf("%q: %q: %+v, %v, want %+v", text, fault, again, err, fault)
		}
	})
}
