package policy

import "net/netip"

// destination is the address of a request in the one form that rules match,
// with the IPv4 addresses it carries.
type destination struct {
	addr    netip.Addr // no zone, not IPv4-mapped
	carried [maxCarried]netip.Addr
	n       int // how many of carried there are
}

// maxCarried is reached by 64:ff9b:1::/48, which is read in four ways, with an
// ISATAP interface identifier.
const maxCarried = 5

// newDestination brings addr to one form and reads what it carries.
func newDestination(addr netip.Addr) destination {
	d := destination{addr: addr.Unmap().WithZone("")}
	if d.addr.Is6() {
		d.read()
	}
	return d
}

// all returns the carried addresses.
func (d *destination) all() []netip.Addr { return d.carried[:d.n] }

// Prefixes whose addresses carry an IPv4 address.
var (
	nat64      = pfx("64:ff9b::/96")     // RFC 6052, section 2.1
	nat64Local = pfx("64:ff9b:1::/48")   // RFC 8215
	sixToFour  = pfx("2002::/16")        // RFC 3056, section 2
	teredo     = pfx("2001::/32")        // RFC 4380, section 4
	compatible = pfx("::/96")            // RFC 4291, section 2.5.5.1
	translated = pfx("::ffff:0:0:0/96")  // RFC 2765, section 2.1
	ipv6Zero   = netip.IPv6Unspecified() // these two are not IPv4-compatible
	ipv6Loop   = netip.IPv6Loopback()
)

// nat64LocalReadings are the octets of the IPv4 address behind a prefix of 48,
// 56, 64 and 96 bits (RFC 6052, section 2.2, figure 1).
var nat64LocalReadings = [4][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}}

// read fills carried from an IPv6 address.
func (d *destination) read() {
	b := d.addr.As16()
	switch {
	case nat64.Contains(d.addr):
		d.carry(b[12], b[13], b[14], b[15])
	case nat64Local.Contains(d.addr):
		// The prefix a translator uses within this range may be of 48, 56, 64
		// or 96 bits, and it ignores the octet u and the suffix (RFC 6052,
		// section 2.2), so each reading counts, but for those that found
		// nothing.
		for _, at := range nat64LocalReadings {
			if v4 := [4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}; v4 != [4]byte{} {
				d.carry(v4[0], v4[1], v4[2], v4[3])
			}
		}
	case sixToFour.Contains(d.addr):
		d.carry(b[2], b[3], b[4], b[5])
	case teredo.Contains(d.addr):
		d.carry(b[4], b[5], b[6], b[7])         // the server
		d.carry(^b[12], ^b[13], ^b[14], ^b[15]) // the client, obfuscated
	case d.addr == ipv6Zero || d.addr == ipv6Loop:
		return
	case compatible.Contains(d.addr), translated.Contains(d.addr):
		d.carry(b[12], b[13], b[14], b[15])
	}
	// An ISATAP interface identifier, in whatever prefix, is 0000:5efe or, for
	// an address that is unique, 0200:5efe, and the IPv4 address (RFC 5214,
	// section 6.1).
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		d.carry(b[12], b[13], b[14], b[15])
	}
}

func (d *destination) carry(b0, b1, b2, b3 byte) {
	d.carried[d.n] = netip.AddrFrom4([4]byte{b0, b1, b2, b3})
	d.n++
}
