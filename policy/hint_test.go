package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestHint(t *testing.T) {
	for _, tt := range []struct {
		proto     Proto
		dst, hint string
	}{
		{TCP, "10.0.0.5:5432", "--allow 10.0.0.5:5432"},
		{TCP, "[::ffff:10.0.0.5]:5432", "--allow 10.0.0.5:5432"},
		{TCP, "[fd00::1]:443", "--allow '[fd00::1]:443'"},
		{TCP, "[fe80::1%eth0]:443", "--allow '[fe80::1]:443'"},
		{UDP, "10.0.0.5:53", "--allow 10.0.0.5:53/udp"},
		{UDP, "[fd00::1]:53", "--allow '[fd00::1]:53/udp'"},
		{ICMP, "10.0.0.5", "--allow 10.0.0.5/icmp"},
		{ICMP, "fd00::1", "--allow fd00::1/icmp"},
		{TCP, "10.0.0.5:0", "--allow 10.0.0.5"},
		{UDP, "[fd00::1]:0", "--allow fd00::1/udp"},
		{TCP, "[64:ff9b::a00:5]:80", "--allow '[64:ff9b::a00:5]:80'"},
		{TCP, "127.0.0.1:80", ""},
		{TCP, "[::1]:80", ""},
		{TCP, "[64:ff9b::127.0.0.1]:80", ""},
		{UDP, "0.0.0.0:80", ""},
		{TCP, "224.0.0.1:80", ""},
		{UDP, "224.0.0.1:80", "--allow 224.0.0.1:80/udp"},
	} {
		v := Policy{}.Decide(request(tt.proto, tt.dst), nil)
		if v.Allow || v.Hint != tt.hint {
			t.Errorf("%v to %s: %+v, want refused with hint %q", tt.proto, tt.dst, v, tt.hint)
		}
	}
	if v := (Policy{Net: NetAll}).Decide(request(TCP, "10.0.0.5:80"), nil); v.Hint != "" {
		t.Errorf("%+v has a hint though it allows", v)
	}
}

// unquote undoes what a shell would.
func unquote(flag string) string { return strings.Trim(flag, "'") }

// The hint parses, and in front of the rules it allows what was refused. Where
// there is none, nothing allows it.
func FuzzDecide(f *testing.F) {
	f.Add("deny 10.0.0.0/8\nallow @private:80/tcp", uint8(NetPublic), uint8(TCP), []byte{10, 0, 0, 5}, uint16(80))
	f.Add("deny @host\ndeny ::/0", uint8(NetAll), uint8(UDP), netip.MustParseAddr("64:ff9b::7f00:1").AsSlice(), uint16(53))
	f.Add("allow @metadata", uint8(NetNone), uint8(ICMP), netip.MustParseAddr("64:ff9b:1:102:3:5efe:506:708").AsSlice(), uint16(0))
	f.Add("", uint8(NetPublic), uint8(TCP), netip.MustParseAddr("::ffff:127.0.0.1").AsSlice(), uint16(22))
	f.Add("allow 2002::/16", uint8(NetPublic), uint8(TCP), netip.MustParseAddr("2002:7f00:1::").AsSlice(), uint16(0))
	f.Add("deny 0.0.0.0/0", uint8(9), uint8(9), []byte{255, 255, 255, 255}, uint16(1))
	f.Fuzz(func(t *testing.T, text string, net, proto uint8, octets []byte, port uint16) {
		var rules []Rule
		for _, line := range strings.Split(text, "\n") {
			pattern, isAllow := strings.CutPrefix(line, "allow ")
			action := Deny
			if isAllow {
				action = Allow
			}
			if r, err := ParseRule(action, strings.TrimPrefix(pattern, "deny ")); err == nil {
				rules = append(rules, r)
			}
		}
		addr, _ := netip.AddrFromSlice(octets)
		req := Request{Proto: Proto(proto), Dst: netip.AddrPortFrom(addr, port)}
		h := hostOf("10.0.0.7", "198.41.0.4", "fd00::7")
		v := Policy{Net(net), rules}.Decide(req, h)
		if v.Rule == "" {
			t.Fatalf("Decide(%v) = %+v names no rule", req, v)
		}
		if v.Allow {
			if v.Hint != "" {
				t.Fatalf("Decide(%v) = %+v allows with a hint", req, v)
			}
			return
		}
		if v.Hint == "" {
			if !strings.HasPrefix(v.Rule, "never ") {
				t.Fatalf("Decide(%v) = %+v has no hint", req, v)
			}
			for _, pattern := range []string{"0.0.0.0/0", "::/0", "@host", "@private", "@metadata"} {
				r, err := ParseRule(Allow, pattern)
				if err != nil {
					t.Fatal(err)
				}
				if v := (Policy{NetAll, []Rule{r}}).Decide(req, h); v.Allow {
					t.Fatalf("Decide(%v) has no hint, but %v allows it", req, r)
				}
			}
			return
		}
		pattern, ok := strings.CutPrefix(v.Hint, "--allow ")
		r, err := ParseRule(Allow, unquote(pattern))
		if !ok || err != nil {
			t.Fatalf("the hint of %+v does not parse: %v", v, err)
		}
		if v := (Policy{Net(net), append([]Rule{r}, rules...)}).Decide(req, h); !v.Allow {
			t.Fatalf("Decide(%v) with its hint %v in front = %+v, want allowed", req, r, v)
		}
	})
}
