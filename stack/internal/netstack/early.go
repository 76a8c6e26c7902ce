package netstack

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// early keeps what the guest answers to a SYN-ACK until the write of that
// SYN-ACK has returned.
//
// The guest's kernel takes a packet in while it is written, so its answer can be
// read before. gVisor writes the SYN-ACK of a passive open with the endpoint
// locked, and not as it locks one for a call: its processor, given a segment of
// such an endpoint, tries again and again until it gets the lock. On a machine
// with few processors it so takes the very time that the write needs, which was
// more than half of what a short connection cost.
type early struct {
	writing atomic.Int32 // SYN-ACKs on their way

	mu   sync.Mutex
	held map[gvstack.TransportEndpointID][]*buffer.View // by the endpoint that is written for
}

// begin is called before the SYN-ACK of an endpoint is written. It reports false
// if one for that is being written already, of an endpoint that is being replaced:
// then there is nothing to end.
func (e *early) begin(id gvstack.TransportEndpointID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, already := e.held[id]; already {
		return false
	}
	if e.held == nil {
		e.held = make(map[gvstack.TransportEndpointID][]*buffer.View)
	}
	e.held[id] = nil
	e.writing.Add(1)
	return true
}

// end is called when it has been written. It reports false if something was kept
// meanwhile: then handOver ends it.
func (e *early) end(id gvstack.TransportEndpointID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.held[id]) > 0 {
		return false
	}
	delete(e.held, id)
	e.writing.Add(-1)
	return true
}

// handOver gives what was kept to inject, in its order, until there is no more.
func (e *early) handOver(id gvstack.TransportEndpointID, inject func(*buffer.View)) {
	for !e.end(id) {
		e.mu.Lock()
		kept := e.held[id]
		e.held[id] = nil
		e.mu.Unlock()
		for _, v := range kept {
			inject(v)
		}
	}
}

// keep takes a packet of the guest's if it is for an endpoint whose SYN-ACK is
// being written. There are never many: the guest sends on when it is answered.
func (e *early) keep(v *buffer.View) bool {
	if e.writing.Load() == 0 {
		return false
	}
	pkt := v.AsSlice()
	h, ok := parseHeaders(pkt)
	if !ok || h.proto != uint8(header.TCPProtocolNumber) || h.fragment || len(pkt) < h.length+header.TCPMinimumSize {
		return false
	}
	tcpHdr := header.TCP(pkt[h.length:])
	id := gvstack.TransportEndpointID{
		LocalAddress: toAddr(h.dst), LocalPort: tcpHdr.DestinationPort(),
		RemoteAddress: toAddr(h.src), RemotePort: tcpHdr.SourcePort(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	kept, writing := e.held[id]
	if !writing || len(kept) >= mostEarly {
		return false
	}
	e.held[id] = append(kept, v)
	return true
}

// mostEarly bounds what is kept of one connection, in packets.
const mostEarly = 16
