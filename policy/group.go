package policy

import "net/netip"

// HostAddrs knows the addresses of the host. Decide asks it anew for each
// decision that depends on it, so an address that the host gains later counts
// from then on. It must be safe for concurrent use and should not block.
type HostAddrs interface {
	// Owns reports whether the host owns the address, which has no zone and is
	// not IPv4-mapped. Loopback need not be known to it.
	Owns(netip.Addr) bool
}

// group is a set of addresses that a rule names by a word.
type group uint8

const (
	noGroup group = iota // the rule has a prefix instead
	public
	private
	host
	metadata

	numGroups
)

var groupNames = [numGroups]string{"", "@public", "@private", "@host", "@metadata"}

// wide reports whether a deny rule for the group matches addr, which is a
// destination's address or one that it carries.
func (g group) wide(addr netip.Addr, h HostAddrs) bool {
	switch g {
	case public:
		return special(addr) == nil
	case private:
		return isPrivate(addr)
	case host:
		return owns(h, addr)
	case metadata:
		return isMetadata(addr)
	default:
		return false
	}
}

// narrow reports whether an allow rule for the group, or Net public, matches d.
func (g group) narrow(d *destination, h HostAddrs) bool {
	switch g {
	case public:
		if special(d.addr) != nil {
			return false
		}
		for _, c := range d.all() {
			if special(c) != nil {
				return false
			}
		}
		return !d.isMetadata() && !d.isOwned(h)
	case private:
		return isPrivate(d.addr) && !d.isMetadata() && !d.isOwned(h)
	case host:
		return owns(h, d.addr) && !d.isMetadata()
	case metadata:
		return isMetadata(d.addr)
	default:
		return false
	}
}

// isMetadata reports whether the address or one it carries is in @metadata.
func (d *destination) isMetadata() bool {
	if isMetadata(d.addr) {
		return true
	}
	for _, c := range d.all() {
		if isMetadata(c) {
			return true
		}
	}
	return false
}

// isOwned reports whether the address or one it carries is in @host.
func (d *destination) isOwned(h HostAddrs) bool {
	if owns(h, d.addr) {
		return true
	}
	for _, c := range d.all() {
		if owns(h, c) {
			return true
		}
	}
	return false
}

func isPrivate(addr netip.Addr) bool {
	r := special(addr)
	return r != nil && r.Private
}

func owns(h HostAddrs, addr netip.Addr) bool {
	return addr.IsLoopback() || addr.IsUnspecified() || h != nil && h.Owns(addr)
}
