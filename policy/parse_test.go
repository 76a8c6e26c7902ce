package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	tests := []struct{ text, pattern string }{
		// An address, a CIDR, a group.
		{"192.0.2.7", "192.0.2.7"},
		{"192.0.2.0/24", "192.0.2.0/24"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"2001:db8::7", "2001:db8::7"},
		{"2001:db8::/32", "2001:db8::/32"},
		{"::/0", "::/0"},
		{"::", "::"},
		{"@public", "@public"},
		{"@private", "@private"},
		{"@host", "@host"},
		{"@metadata", "@metadata"},
		// Ports.
		{"192.0.2.7:443", "192.0.2.7:443"},
		{"192.0.2.0/24:443", "192.0.2.0/24:443"},
		{"192.0.2.7:8000-8080", "192.0.2.7:8000-8080"},
		{"192.0.2.7:1-65535", "192.0.2.7:1-65535"},
		{"[2001:db8::7]:443", "[2001:db8::7]:443"},
		{"[2001:db8::/32]:443", "[2001:db8::/32]:443"},
		{"[2001:db8::/32]:8000-8080", "[2001:db8::/32]:8000-8080"},
		{"@private:5432", "@private:5432"},
		// Protocols.
		{"192.0.2.7/tcp", "192.0.2.7/tcp"},
		{"192.0.2.0/24/icmp", "192.0.2.0/24/icmp"},
		{"192.0.2.0/24:53/udp", "192.0.2.0/24:53/udp"},
		{"2001:db8::7/udp", "2001:db8::7/udp"},
		{"2001:db8::/32/icmp", "2001:db8::/32/icmp"},
		{"[2001:db8::/32]:53/udp", "[2001:db8::/32]:53/udp"},
		{"@host:22/tcp", "@host:22/tcp"},
		// Other spellings of the same.
		{"192.0.2.7/32", "192.0.2.7"},
		{"192.0.2.7/32:443", "192.0.2.7:443"},
		{"192.0.2.7:443-443", "192.0.2.7:443"},
		{"2001:DB8:0::7/128", "2001:db8::7"},
		{"[2001:db8::7]", "2001:db8::7"},
		{"[2001:db8::7]/udp", "2001:db8::7/udp"},
		{"::ffff:192.0.2.7", "192.0.2.7"},
		{"[::ffff:192.0.2.7]:443", "192.0.2.7:443"},
		{"::ffff:192.0.2.0/120", "192.0.2.0/24"},
		{"::ffff:0:0/96", "0.0.0.0/0"},
		// Without brackets the last group of an IPv6 address is no port.
		{"2001:db8::7:443", "2001:db8::7:443"},
	}
	for _, tt := range tests {
		for _, action := range []Action{Allow, Deny} {
			r, err := ParseRule(action, tt.text)
			if err != nil {
				t.Errorf("ParseRule(%v, %q): %v", action, tt.text, err)
				continue
			}
			if got := r.Pattern(); got != tt.pattern {
				t.Errorf("ParseRule(%v, %q).Pattern() = %q, want %q", action, tt.text, got, tt.pattern)
			}
			if got, want := r.String(), action.String()+" "+tt.pattern; got != want {
				t.Errorf("ParseRule(%v, %q).String() = %q, want %q", action, tt.text, got, want)
			}
			if r.Action() != action {
				t.Errorf("ParseRule(%v, %q).Action() = %v", action, tt.text, r.Action())
			}
		}
	}
}

func TestParseRuleFaults(t *testing.T) {
	tests := []struct {
		text    string
		column  int
		message string // a part of it
		hint    string // a part of it
	}{
		{"", 1, "no address", "ADDRESS, CIDR"},
		{":443", 1, "no address", "ADDRESS, CIDR"},
		{"/tcp", 1, "no address", "ADDRESS, CIDR"},
		// Names.
		{"example.com", 1, `"example.com" is not an address`, "names in rules are not supported yet; give an address"},
		{"example.com:443", 1, `"example.com" is not an address`, "names in rules are not supported yet"},
		{"*.example.com:443/tcp", 1, "is not an address", "0.0.0.0/0 and ::/0"},
		{"localhost", 1, "is not an address", "names in rules"},
		{"https://example.com/", 1, "is not an address", "not a URL"},
		{"https://192.0.2.7/index", 1, "is not an address", "not a URL"},
		{"0x7f.0.0.1", 1, "is not an address", "give an address"},
		{"bad\x1b[2J", 1, `"bad\x1b[2J" is not an address`, "give an address"},
		// Addresses.
		{"192.0.2", 1, "not an IPv4 address", "four numbers"},
		{"192.0.2.256", 1, "not an IPv4 address", "four numbers"},
		{"192.0.2.007", 1, "not an IPv4 address", "leading zeros"},
		{"2130706433", 1, "not an IPv4 address", "four numbers"},
		{"2001:db8::g", 1, "not an IPv6 address", "2001:db8::7"},
		{"2001:db8::7::", 1, "not an IPv6 address", "2001:db8::7"},
		{"fe80::1%eth0", 8, "no zone", "without its zone"},
		// CIDRs.
		{"10.0.0.5/8", 1, "10.0.0.5/8 has bits set behind its prefix", "write 10.0.0.0/8 for the network, or 10.0.0.5 for the one address"},
		{"[fd00::5/8]:443", 2, "has bits set", "write fd00::/8 for the network"},
		{"::ffff:10.0.0.5/104", 1, "has bits set", "write 10.0.0.0/8"},
		{"10.0.0.0/33", 10, "33 is more than 32", "from 0 to 32"},
		{"fd00::/129", 8, "129 is more than 128", "from 0 to 128"},
		{"10.0.0.0/", 10, `"" is not a prefix length`, "from 0 to 32"},
		{"10.0.0.0/08", 10, "not a prefix length", "from 0 to 32"},
		{"10.0.0.0/-8", 10, "not a prefix length", "from 0 to 32"},
		{"10.0.0.0/255.0.0.0", 10, "not a prefix length", "from 0 to 32"},
		{"10.0.0.0/tcp/udp", 10, "not a prefix length", "from 0 to 32"},
		// Groups.
		{"@lan", 1, `"@lan" is not a group`, "@public, @private, @host and @metadata"},
		{"@Public", 1, "not a group", "@public"},
		{"@", 1, "not a group", "@public"},
		{"@private/8", 1, "not a group", "@private"},
		// Loopback.
		{"127.0.0.1:8123", 1, "loopback", "--allow @host:8123, and connect to host.tcpbox.internal"},
		{"127.0.0.0/8", 1, "loopback", "--allow @host,"},
		{"127.7.0.0/16:53/udp", 1, "loopback", "--allow @host:53/udp,"},
		{"::1", 1, "loopback", "--allow @host,"},
		{"[::1]:80-90/tcp", 1, "loopback", "--allow @host:80-90/tcp,"},
		{"::ffff:127.0.0.1", 1, "loopback", "--allow @host,"},
		// Brackets.
		{"fd00::/8:443", 9, "not a prefix length", "[fd00::/8]:443"},
		{"fd00::/8:80-90", 9, "not a prefix length", "[fd00::/8]:80-90"},
		{"fd00::/8:\n0", 8, "not a prefix length", "from 0 to 128"},
		{"[fd00::1:443", 1, "not closed", "[2001:db8::7]:443"},
		{"[fd00::]/8:443", 9, "outside the brackets", "inside the brackets"},
		{"[fd00::1]443", 10, "behind the bracket", "[2001:db8::7]:443"},
		{"[192.0.2.7]:443", 2, "not IPv6", "without them"},
		{"[]:443", 2, "not IPv6", "without them"},
		// Ports.
		{"192.0.2.7:", 11, `"" is not a port`, "1 to 65535"},
		{"192.0.2.7:0", 11, `"0" is not a port`, "1 to 65535"},
		{"192.0.2.7:65536", 11, "not a port", "1 to 65535"},
		{"192.0.2.7:-1", 11, "not a port", "1 to 65535"},
		{"192.0.2.7:+80", 11, "not a port", "1 to 65535"},
		{"192.0.2.7:080", 11, "not a port", "1 to 65535"},
		{"192.0.2.7:*", 11, "not a port", "every port"},
		{"192.0.2.7:https", 11, "not a port", "1 to 65535"},
		{"192.0.2.7:80-", 14, "not a port", "1 to 65535"},
		{"192.0.2.7:90-80", 11, "90-80 is empty", "80-90"},
		{"192.0.2.7:80-90-95", 14, "not a port", "1 to 65535"},
		{"[2001:db8::7]:0", 15, "not a port", "1 to 65535"},
		{"192.0.2.7 :80", 1, "not an address", ""},
		// Protocols.
		{"192.0.2.7/sctp", 11, `"sctp" is not a protocol`, "tcp, udp and icmp"},
		{"192.0.2.7/TCP", 11, "not a protocol", "tcp, udp and icmp"},
		{"192.0.2.7/any", 11, "not a protocol", "tcp, udp and icmp"},
		{"192.0.2.7:53/udp ", 14, "not a protocol", "tcp, udp and icmp"},
		{"192.0.2.7:53/icmp", 14, "ICMP has no ports", "leave the port away"},
	}
	for _, tt := range tests {
		r, err := ParseRule(Allow, tt.text)
		var fault *ParseError
		if !errors.As(err, &fault) {
			t.Errorf("ParseRule(%q) = %v, %v; want a *ParseError", tt.text, r, err)
			continue
		}
		if r != (Rule{}) {
			t.Errorf("ParseRule(%q) = %v with an error, want the zero Rule", tt.text, r)
		}
		if fault.Input != tt.text || fault.Column != tt.column || !strings.Contains(fault.Message, tt.message) || !strings.Contains(fault.Hint, tt.hint) || fault.Hint == "" {
			t.Errorf("ParseRule(%q) = %+v,\nwant column %d, message ...%s..., hint ...%s...", tt.text, *fault, tt.column, tt.message, tt.hint)
		}
		if strings.ContainsAny(err.Error()+fault.Hint, "\x1b\n") {
			t.Errorf("ParseRule(%q): the error passes control characters on: %q", tt.text, err.Error())
		}
	}
}

func TestParseNet(t *testing.T) {
	for _, n := range []Net{NetNone, NetPublic, NetAll} {
		got, err := ParseNet(n.String())
		if err != nil || got != n {
			t.Errorf("ParseNet(%q) = %v, %v; want %v", n.String(), got, err, n)
		}
		text, _ := n.MarshalText()
		var back Net
		if err := back.UnmarshalText(text); err != nil || back != n {
			t.Errorf("UnmarshalText(%q) = %v, %v; want %v", text, back, err, n)
		}
	}
	for _, text := range []string{"", "deny", "Public", " all", "net all"} {
		_, err := ParseNet(text)
		var fault *ParseError
		if !errors.As(err, &fault) || !strings.Contains(fault.Hint, "none, public or all") {
			t.Errorf("ParseNet(%q) = %v; want a *ParseError that names the values", text, err)
		}
	}
}

func TestStringsOfUnknownValues(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Net(9).String(), "Net(9)"},
		{Proto(9).String(), "Proto(9)"},
		{Action(9).String(), "Action(9)"},
		{Rule{}.String(), "deny nothing"},
		{Rule{}.Pattern(), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("String() = %q, want %q", tt.got, tt.want)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.7", "192.0.2.0/24:443/tcp", "[2001:db8::/32]:1-65535/udp", "2001:db8::7/icmp", "@private:5432",
		"::ffff:10.0.0.0/104", "[::ffff:10.0.0.1]:53", "fe80::1%eth0", "10.0.0.5/8", "fd00::/8:443", "example.com:443",
		"https://192.0.2.7/x", "", "[", "[]", "@", "/", ":", "::", "::/0", "0.0.0.0/0", "64:ff9b::/96", "1.2.3.4/32/tcp/udp",
		"[::1]:22-", "10.0.0.0/08", "\xff\x00", "::%/0",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, allow bool) {
		action := Deny
		if allow {
			action = Allow
		}
		r, err := ParseRule(action, text)
		if err != nil {
			var fault *ParseError
			if !errors.As(err, &fault) || fault.Hint == "" || fault.Message == "" || fault.Input != text {
				t.Fatalf("ParseRule(%q): %#v is not a *ParseError with a message and a hint", text, err)
			}
			if fault.Column < 1 || fault.Column > len(text)+1 {
				t.Fatalf("ParseRule(%q): column %d is outside the input", text, fault.Column)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(fault.Hint, "\n") {
				t.Fatalf("ParseRule(%q): %v is more than one line", text, err)
			}
			return
		}
		again, err := ParseRule(action, r.Pattern())
		if err != nil || again != r {
			t.Fatalf("ParseRule(%q) = %v, but ParseRule(%q) = %v, %v", text, r, r.Pattern(), again, err)
		}
		if r.String() != action.String()+" "+r.Pattern() {
			t.Fatalf("String() = %q of pattern %q", r.String(), r.Pattern())
		}
	})
}
