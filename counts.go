package tcpbox

import (
	"strconv"
	"strings"

	"tcpbox/stack/dns"
	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// Counts are the numbers of a sandbox since it began.
type Counts struct {
	// States are how many endpoints are in each state now and were at most at
	// once, on each leg, and what made them change.
	States legs.Report `json:"states"`

	// LeftOut are records that the limit of the log kept from its readers.
	LeftOut uint64 `json:"left_out"`

	Stack Stats     `json:"stack"`
	Outer *Stats    `json:"outer,omitempty"` // of the stack between the sandbox and the host, if there is one
	DNS   dns.Stats `json:"dns"`

	// Retransmits are segments that each leg sent again. The host's are those of
	// this sandbox's connections. Nil: the kernel does not say.
	Retransmits Retransmits `json:"retransmits"`
}

// Retransmits are segments of TCP that were sent again.
type Retransmits struct {
	Guest    *uint64 `json:"guest"`
	Stack    uint64  `json:"stack"`
	Upstream uint64  `json:"upstream"`
}

// Counts returns the numbers as they are now.
func (s *Sandbox) Counts() Counts {
	c := Counts{Stack: s.gateway.Stats(), LeftOut: s.log.rate.LeftOut()}
	if s.outer != nil {
		st := s.outer.Stats()
		c.Outer = &st
		c.Retransmits.Upstream = st.Retransmits
	}
	if s.hosts != nil && s.hosts.server != nil {
		c.DNS = s.hosts.server.Stats()
	}
	c.Retransmits.Stack = c.Stack.Retransmits
	for _, f := range s.carried() {
		if f.Path != nil {
			c.Retransmits.Upstream += uint64(f.Path.Retransmits)
		}
	}
	if ns := s.NS(); ns != nil {
		if text, err := ns.ProcNet("snmp"); err == nil {
			c.Retransmits.Guest = retransSegs(string(text))
		}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	c.States = s.log.stat.Report()
	c.Retransmits.Upstream += s.log.sentAgain
	return c
}

// retransSegs reads RetransSegs of /proc/net/snmp, where a line of names stands
// before one of numbers. Nil: it is not there.
func retransSegs(snmp string) *uint64 {
	var names []string
	for line := range strings.Lines(snmp) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		for i, name := range names {
			if name == "RetransSegs" && i < len(words) {
				if n, err := strconv.ParseUint(words[i], 10, 64); err == nil {
					return &n
				}
			}
		}
	}
	return nil
}

// countSentAgain adds what a connection that has ended sent again on the host.
func (p *present) countSentAgain(f *tcpstate.Facts) {
	if f != nil && f.Path != nil {
		p.sentAgain += uint64(f.Path.Retransmits)
	}
}
