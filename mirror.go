package tcpbox

import (
	"errors"
	"slices"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// How often the guest's sockets are looked at, as long as a port is published.
// The kernel tells of sockets that end and not of those that begin to listen, so
// there is no event to wait for. While every port listens there is less hurry: a
// connection that the guest refuses makes mirror look at once.
const (
	lookWaiting   = 50 * time.Millisecond
	lookListening = 250 * time.Millisecond
)

// watchLocked starts mirror, if there is something to mirror.
func (b *publisher) watchLocked() {
	if b.watching || b.closed || len(b.ports) == 0 {
		return
	}
	b.watching = true
	b.running.Go(b.mirror)
}

// lookSoon makes mirror look now.
func (b *publisher) lookSoon() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// mirror has each port of the host listen while the guest does. It ends when no
// port is published any more.
func (b *publisher) mirror() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-b.kick:
		}
		next := b.look()
		if next == 0 {
			return
		}
		timer.Reset(next)
	}
}

// look looks once, and says when to look next; zero when there is nothing left
// to look for.
func (b *publisher) look() (next time.Duration) {
	b.looking.Lock()
	defer b.looking.Unlock()
	b.mu.Lock()
	if b.closed || len(b.ports) == 0 {
		b.watching = false
		b.mu.Unlock()
		return 0
	}
	ports := slices.Clone(b.ports)
	b.mu.Unlock()
	sockets, err := sockdiag.Dump(b.ns, queriesFor(ports)...)
	if err != nil && !errors.Is(err, sockdiag.ErrChanged) {
		return lookListening // the sandbox ends, or is short of descriptors: it stays as it is
	}
	next = lookListening
	for _, p := range ports {
		has := p.hasSocket(sockets)
		if err := p.set(has); err != nil || !has { // an error is tried again, unless it has been closed
			next = lookWaiting
		}
	}
	return next
}

// queriesFor are for the sockets of the guest that something may be sent to. One
// of IPv6 may be for IPv4 too.
func queriesFor(ports []*publishedPort) []sockdiag.Query {
	var queries []sockdiag.Query
	add := func(proto sockdiag.Proto, family sockdiag.Family, states sockdiag.States) {
		q := sockdiag.Query{Proto: proto, Family: family, States: states}
		if !slices.Contains(queries, q) {
			queries = append(queries, q)
		}
	}
	for _, p := range ports {
		states := sockdiag.Of(tcpstate.Listen)
		if p.udp != nil {
			states = sockdiag.Of(tcpstate.Closed, tcpstate.Established)
		}
		if p.guest.Addr().Is4() {
			add(p.proto(), sockdiag.Inet4, states)
		}
		add(p.proto(), sockdiag.Inet6, states)
	}
	return queries
}

func (p *publishedPort) proto() sockdiag.Proto {
	if p.udp != nil {
		return sockdiag.UDP
	}
	return sockdiag.TCP
}

// hasSocket reports whether the guest has its port.
func (p *publishedPort) hasSocket(sockets []sockdiag.Socket) bool {
	return slices.ContainsFunc(sockets, func(s sockdiag.Socket) bool { return s.Proto == p.proto() && s.Accepts(p.guest) })
}
