package testnet

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// DNS is a name server.
type DNS struct {
	mu      sync.Mutex
	zone    map[string][]netip.Addr
	queries []string
}

// ServeDNS answers for the names of zone until t ends, over UDP and TCP. A name
// that is not in it does not exist. Without an address it serves where
// resolv.conf points by default, on Remote's.
func (ns *Namespace) ServeDNS(t testing.TB, zone map[string][]netip.Addr, addrs ...netip.Addr) *DNS {
	t.Helper()
	if len(addrs) == 0 {
		addrs = []netip.Addr{Remote4, Remote6}
	}
	d := &DNS{zone: zone}
	for _, addr := range addrs {
		at := netip.AddrPortFrom(addr, 53)
		for _, s := range []*dns.Server{
			{Listener: ns.Listen(t, "tcp", at)},
			{PacketConn: ns.ListenUDP(t, at)},
		} {
			s.Handler = d
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			done := make(chan error, 1)
			go func() { done <- s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() {
				if err := errors.Join(s.Shutdown(), <-done); err != nil {
					t.Errorf("testnet: dns: %v", err)
				}
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
