package tcpbox

import (
	"net/netip"
	"sync"

	"tcpbox/stack/dns"
)

// maxNames is how many addresses are remembered with their names. The guest
// chooses how many there are.
const maxNames = 4096

// names remembers which name the guest asked for last to get an address.
type names struct {
	mu    sync.Mutex
	of    map[netip.Addr]string
	order []netip.Addr // of of, a ring: the next to be forgotten is at next
	next  int
}

// learn is told of a query. It is a dns.Config.OnQuery.
func (n *names) learn(q dns.Query) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, addr := range q.Addrs {
		addr = addr.Unmap()
		if n.of == nil {
			n.of = make(map[netip.Addr]string)
		}
		if _, known := n.of[addr]; !known {
			n.rememberLocked(addr)
		}
		n.of[addr] = q.Name
	}
}

// rememberLocked makes room for an address.
func (n *names) rememberLocked(addr netip.Addr) {
	if len(n.order) < maxNames {
		n.order = append(n.order, addr)
		return
	}
	delete(n.of, n.order[n.next])
	n.order[n.next] = addr
	n.next = (n.next + 1) % maxNames
}

// find returns the name of an address, "" if it has none.
func (n *names) find(addr netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.of[addr.Unmap()]
}
