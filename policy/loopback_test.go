package policy

import (
	"strings"
	"testing"
)

// The host's loopback is reached by "allow @host" and by nothing else.
func TestHostLoopback(t *testing.T) {
	for _, row := range []struct {
		name  string
		net   Net
		rules []string
		proto Proto
		dst   string
		want  bool
		rule  string
	}{
		{"no rule, none", NetNone, nil, TCP, "127.0.0.1:80", false, noHostRule},
		{"no rule, public", NetPublic, nil, TCP, "127.0.0.1:80", false, noHostRule},
		{"no rule, all", NetAll, nil, TCP, "127.0.0.1:80", false, noHostRule},
		{"no rule, all, IPv6", NetAll, nil, UDP, "[::1]:80", false, noHostRule},
		{"an address is no @host", NetAll, []string{"allow 0.0.0.0/0"}, TCP, "127.0.0.1:80", false, noHostRule},
		{"the loopback's prefix is no @host", NetAll, []string{"allow 126.0.0.0/7", "allow ::/127"}, TCP, "[::1]:80", false, noHostRule},
		{"other groups are no @host", NetAll, []string{"allow @private", "allow @public", "allow @metadata"}, TCP, "127.0.0.1:80", false, noHostRule},
		{"allow @host", NetNone, []string{"allow @host"}, TCP, "127.0.0.1:80", true, "allow @host"},
		{"allow @host, IPv6", NetPublic, []string{"allow @host"}, UDP, "[::1]:53", true, "allow @host"},
		{"allow @host, ping", NetPublic, []string{"allow @host"}, ICMP, "::1", true, "allow @host"},
		{"a port of it", NetNone, []string{"allow @host:5432"}, TCP, "127.0.0.1:5432", true, "allow @host:5432"},
		{"another port", NetAll, []string{"allow @host:5432"}, TCP, "127.0.0.1:5433", false, noHostRule},
		{"a port is not for ping", NetAll, []string{"allow @host:5432"}, ICMP, "127.0.0.1", false, noHostRule},
		{"a range", NetNone, []string{"allow @host:5000-6000"}, UDP, "127.0.0.1:6000", true, "allow @host:5000-6000"},
		{"its protocol", NetNone, []string{"allow @host:53/udp"}, UDP, "127.0.0.1:53", true, "allow @host:53/udp"},
		{"another protocol", NetAll, []string{"allow @host:53/udp"}, TCP, "127.0.0.1:53", false, noHostRule},
		{"denied before", NetAll, []string{"deny @host:22", "allow @host"}, TCP, "127.0.0.1:22", false, "deny @host:22"},
		{"denied behind", NetAll, []string{"allow @host", "deny @host:22"}, TCP, "127.0.0.1:22", true, "allow @host"},
		{"denied by the address", NetAll, []string{"deny 127.0.0.1", "allow @host"}, TCP, "127.0.0.1:22", false, "deny 127.0.0.1"},
		{"denied with everything", NetAll, []string{"deny 0.0.0.0/0", "allow @host"}, TCP, "127.0.0.1:22", false, "deny 0.0.0.0/0"},
		{"no loopback at all", NetAll, []string{"allow @host"}, TCP, "10.0.0.1:80", false, "never the host by an address that is not loopback"},
		{"no protocol", NetAll, []string{"allow @host"}, AnyProto, "127.0.0.1:80", false, "never without a protocol"},
	} {
		req := request(row.proto, row.dst)
		req.Host = true
		p := Policy{Net: row.net, Rules: rules(t, row.rules...)}
		v := p.Decide(req, hostOf("10.0.0.1"))
		if v.Allow != row.want || v.Rule != row.rule {
			t.Errorf("%s: Decide(%v) = %+v, want %v by %q", row.name, req, v, row.want, row.rule)
		}
		if req.Host = false; p.Decide(req, nil).Allow && req.Dst.Addr().IsLoopback() {
			t.Errorf("%s: loopback is allowed without Host", row.name)
		}
	}
}

// The hint is a rule that allows the request.
func TestHostHint(t *testing.T) {
	for _, row := range []struct {
		proto     Proto
		dst, want string
	}{
		{TCP, "127.0.0.1:5432", "--allow @host:5432"},
		{UDP, "[::1]:53", "--allow @host:53/udp"},
		{ICMP, "127.0.0.1", "--allow @host/icmp"},
		{TCP, "127.0.0.1:0", "--allow @host"},
	} {
		req := request(row.proto, row.dst)
		req.Host = true
		v := Policy{}.Decide(req, nil)
		if v.Allow || v.Hint != row.want {
			t.Errorf("Decide(%v) = %+v, want the hint %q", req, v, row.want)
		}
		allow := Policy{Rules: rules(t, "allow "+strings.TrimPrefix(row.want, "--allow "))}
		if v := allow.Decide(req, nil); !v.Allow {
			t.Errorf("with %q: %+v", row.want, v)
		}
	}
}
