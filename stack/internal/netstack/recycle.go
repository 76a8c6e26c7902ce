package netstack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What net.ipv4.tcp_tw_recycle did on Linux until 4.12 removed it (net/ipv4/
// tcp_minisocks.c, tcp_metrics.c, tcp_input.c), at the boundary of the stack:
//
//   - An endpoint with timestamps that enters TIME-WAIT remembers, for the address
//     of its peer, the last timestamp that came from there. It stays for 3.5
//     retransmission timeouts only.
//   - A SYN for a new connection from an address of which that was remembered less
//     than a minute ago is dropped, without an answer, if its timestamp is older.
//
// So what protects is kept for a host, not for a connection. Behind one address with
// several hosts, which NAT makes, the clock of one decides about the others.
const (
	recycleMemory = time.Minute // TCP_PAWS_MSL
	recycleSlack  = 1           // TCP_PAWS_WINDOW
	mostRecycled  = 1 << 12     // addresses that are remembered
)

// recycling is what is remembered of peers.
type recycling struct {
	on      atomic.Bool
	dropped atomic.Uint64 // SYNs
	early   atomic.Uint64 // TIME-WAITs that were ended

	mu     sync.Mutex
	stamps map[tcpip.Address]stamp
}

// stamp is a timestamp of a peer, and when it was remembered.
type stamp struct {
	val uint32
	at  tcpip.MonotonicTime
}

// SetTimeWaitRecycle says whether TIME-WAIT is recycled as Linux did until 4.12:
// endpoints that enter it from now on stay for 3.5 retransmission timeouts, and
// from the next SYN on one whose timestamp is older than the last one from its
// address is dropped.
func (s *Stack) SetTimeWaitRecycle(on bool) {
	c := &s.timeWait.recycle
	c.on.Store(on)
	if !on {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stamps = nil
	}
}

// remember keeps the last timestamp from an address.
func (c *recycling) remember(peer tcpip.Address, val uint32, now tcpip.MonotonicTime) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was, known := c.stamps[peer]; known && int32(was.val-val) > 0 && now.Sub(was.at) <= recycleMemory {
		return // another connection has brought a newer one
	} else if !known && len(c.stamps) >= mostRecycled {
		c.makeRoomLocked(now)
	}
	if c.stamps == nil {
		c.stamps = make(map[tcpip.Address]stamp)
	}
	c.stamps[peer] = stamp{val, now}
}

// makeRoomLocked forgets the oldest of a few addresses, and all of those that no
// longer mean anything.
func (c *recycling) makeRoomLocked(now tcpip.MonotonicTime) {
	const look = 16
	var oldest tcpip.Address
	n := 0
	for peer, st := range c.stamps {
		if now.Sub(st.at) > recycleMemory {
			delete(c.stamps, peer)
			continue
		}
		if n == 0 || st.at.Before(c.stamps[oldest].at) {
			oldest = peer
		}
		if n++; n == look {
			break
		}
	}
	if len(c.stamps) >= mostRecycled {
		delete(c.stamps, oldest)
	}
}

// refuses reports whether a SYN is too old for its address.
func (c *recycling) refuses(peer tcpip.Address, options []byte, now tcpip.MonotonicTime) bool {
	if !c.on.Load() {
		return false
	}
	opts := header.ParseSynOptions(options, false)
	if !opts.TS {
		return false
	}
	c.mu.Lock()
	was, known := c.stamps[peer]
	c.mu.Unlock()
	if !known || now.Sub(was.at) >= recycleMemory || int32(was.val-opts.TSVal) <= recycleSlack {
		return false
	}
	c.dropped.Add(1)
	return true
}

// recycleTimeWait is called with the endpoint locked when it has entered
// TIME-WAIT with timestamps.
func (t *tracker) recycleTimeWait(r *record, id gvstack.TransportEndpointID, recentTS uint32, rto time.Duration) {
	c := &t.tw.recycle
	if !c.on.Load() {
		return
	}
	c.remember(id.RemoteAddress, recentTS, t.clock.NowMonotonic())
	if stay := rto*4 - rto/2; stay < t.tw.timeout() {
		t.clock.AfterFunc(stay, func() { t.ender.condemn(r, endRecycle) })
	}
}
