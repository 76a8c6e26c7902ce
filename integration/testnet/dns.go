package testnet

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// DNS is a name server in Remote, on port 53 of Remote4 and Remote6, over UDP
// and TCP. It is where resolv.conf points by default.
type DNS struct {
	mu      sync.Mutex
	zone    map[string][]netip.Addr
	queries []string
}

// ServeDNS answers for the names of zone until t ends. A name that is not in
// it does not exist.
func (n *Net) ServeDNS(t testing.TB, zone map[string][]netip.Addr) *DNS {
	t.Helper()
	d := &DNS{zone: zone}
	for _, addr := range []netip.Addr{Remote4, Remote6} {
		at := netip.AddrPortFrom(addr, 53)
		for _, s := range []*dns.Server{
			{Listener: n.Remote.Listen(t, "tcp", at)},
			{PacketConn: n.Remote.ListenUDP(t, at)},
		} {
			s.Handler = d
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			done := make(chan error, 1)
			go func() { done <- s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() {
				if err := s.Shutdown(); err != nil {
					t.Errorf("testnet: dns: %v", err)
				}
				<-done
			})
		}
	}
	return d
}

// Queries returns the questions asked so far, each as "A example.test.".
func (d *DNS) Queries() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.queries)
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	answer := new(dns.Msg).SetReply(query)
	answer.RecursionAvailable = true
	d.mu.Lock()
	for _, q := range query.Question {
		d.queries = append(d.queries, dns.TypeToString[q.Qtype]+" "+q.Name)
		addrs, ok := d.zone[q.Name]
		if !ok {
			answer.Rcode = dns.RcodeNameError
		}
		for _, a := range addrs {
			hdr := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Rrtype: q.Qtype, Ttl: 1}
			switch {
			case a.Is4() && q.Qtype == dns.TypeA:
				answer.Answer = append(answer.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
			case a.Is6() && q.Qtype == dns.TypeAAAA:
				answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
			}
		}
	}
	d.mu.Unlock()
	_ = w.WriteMsg(answer) // a client that has gone wants no answer
}
