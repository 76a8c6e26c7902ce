package netstack

import "net/netip"

// A sourceShare limits how many connections of one source may be opening at once.
// Nothing is counted while there is no limit. admission.mu guards it.
type sourceShare struct {
	most int // zero: no limit
	now  map[netip.Prefix]int
}

// originOf is who is counted as one source: an address, and of IPv6 its network of 64
// bits, of which whoever has one address has all.
func originOf(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// full reports whether a source has as many as it may.
func (s *sourceShare) full(src netip.Addr) bool {
	return s.most != 0 && s.now[originOf(src)] >= s.most
}

// take counts one of src, and reports whether leave is to be told of its end.
func (s *sourceShare) take(src netip.Addr) bool {
	if s.most == 0 {
		return false
	}
	if s.now == nil {
		s.now = make(map[netip.Prefix]int)
	}
	s.now[originOf(src)]++
	return true
}

func (s *sourceShare) leave(src netip.Addr) {
	p := originOf(src)
	if s.now[p]--; s.now[p] <= 0 {
		delete(s.now, p)
	}
}

// SetPerSource sets how many connections of one source may be opening, from the next
// one on: dials in progress, and handshakes that are half-open. Zero means no limit.
func (s *Stack) SetPerSource(n int) {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.perSrc.most = n
}

// BeginFrom counts a connection to the guest that is opening on behalf of a client at
// src, and returns what is called when it stands or has failed. It reports false, and
// counts a drop, if src has as many as it may.
func (s *Stack) BeginFrom(src netip.Addr) (end func(), ok bool) {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.perSrc.full(src) {
		s.counters.dropPerSrc.Add(1)
		return nil, false
	}
	if !a.perSrc.take(src) {
		return func() {}, true
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.perSrc.leave(src)
	}, true
}
