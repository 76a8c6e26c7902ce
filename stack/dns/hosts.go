package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Host is a name and one of its addresses. A name with several addresses has
// several Hosts.
type Host struct {
	Name string // as ParseHost returns it: lower case, without the last dot
	Addr netip.Addr
}

// String returns the form that ParseHost reads, NAME:IP.
func (h Host) String() string { return h.Name + ":" + h.Addr.String() }

// ParseHost reads NAME:IP, as docker run --add-host does, or NAME=IP. An IPv6
// address may stand in brackets: "db:10.0.0.5", "db:fd00::5", "db=[fd00::5]".
func ParseHost(text string) (Host, error) {
	h, err := parseHost(text)
	if err != nil {
		return Host{}, fmt.Errorf("dns: host %q: %w", text, err)
	}
	return h, nil
}

func parseHost(text string) (Host, error) {
	i := strings.IndexAny(text, ":=")
	if i < 0 {
		return Host{}, errors.New("expected NAME:IP, such as db:10.0.0.5 or db:fd00::5")
	}
	name, addrText := text[:i], text[i+1:]
	if addrText == "host-gateway" {
		return Host{}, errors.New("the host has no address inside the sandbox; give an address that a rule allows")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err := checkName(name); err != nil {
		return Host{}, err
	}
	if inner, ok := strings.CutPrefix(addrText, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok && strings.Contains(inner, ":") {
			addrText = inner
		}
	}
	addr, err := netip.ParseAddr(addrText)
	if err != nil {
		return Host{}, fmt.Errorf("%q is not an IP address", addrText)
	}
	h := Host{Name: name, Addr: addr.Unmap()}
	return h, checkHost(h)
}

// checkHost says what keeps h from being one.
func checkHost(h Host) error {
	if err := checkName(h.Name); err != nil {
		return err
	}
	switch {
	case !h.Addr.IsValid():
		return errors.New("the address is missing")
	case h.Addr.Zone() != "":
		return fmt.Errorf("%q: an answer cannot carry the zone %q", h.Addr, h.Addr.Zone())
	}
	return nil
}

// checkName says what keeps name, in lower case, from being a host's name:
// labels of letters, digits, hyphens and underscores (RFC 1123, section 2.1;
// the underscore because people use it), and at most 253 bytes in all.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > 253:
		return fmt.Errorf("the name has %d bytes; a name has at most 253", len(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return fmt.Errorf("%q is not a name: it has an empty label", name)
		case len(label) > 63:
			return fmt.Errorf("%q is not a name: a label has at most 63 bytes", name)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Errorf("%q is not a name: a label neither begins nor ends with a hyphen", name)
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return fmt.Errorf("%q is not a name: %q is not a letter, a digit, a hyphen or an underscore", name, r)
			}
		}
	}
	if isLocalhost(name) || name == "ip6-localhost" || name == "ip6-loopback" { // as /etc/hosts has it
		return fmt.Errorf("%q is the guest itself; choose another name", name)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q is an address, not a name", name)
	}
	return nil
}

// isLocalhost reports whether name is one that RFC 6761, section 6.3 keeps for
// the machine itself.
func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// table is the Hosts in the two ways in which they are asked for. It does not
// change once it is made.
type table struct {
	addrs map[string][]netip.Addr
	names map[netip.Addr][]string
}

func newTable(hosts []Host) (*table, error) {
	t := &table{addrs: make(map[string][]netip.Addr), names: make(map[netip.Addr][]string)}
	var errs []error
	for _, h := range hosts {
		h.Addr = h.Addr.Unmap()
		if err := checkHost(h); err != nil {
			errs = append(errs, fmt.Errorf("dns: host %q: %w", h.Name, err))
			continue
		}
		if slices.Contains(t.addrs[h.Name], h.Addr) {
			continue
		}
		t.addrs[h.Name] = append(t.addrs[h.Name], h.Addr)
		t.names[h.Addr] = append(t.names[h.Addr], h.Name)
	}
	return t, errors.Join(errs...)
}

// owner returns the name of t to which name belongs by its leading labels that
// begin with an underscore (RFC 8552): _443._tcp.web belongs to web. It returns
// false for a name without such labels.
func (t *table) owner(name string) (string, bool) {
	rest := name
	for strings.HasPrefix(rest, "_") {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return "", false
		}
		rest = after
		if _, ours := t.addrs[rest]; ours {
			return rest, true
		}
	}
	return "", false
}

// reversed returns the address that name, in lower case and without the last
// dot, is the reverse of: 4.3.2.1.in-addr.arpa (RFC 1035, section 3.5), or 32
// nibbles before ip6.arpa (RFC 3596, section 2.5).
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		octets := strings.Split(rest, ".")
		if len(octets) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(octets)
		addr, err := netip.ParseAddr(strings.Join(octets, "."))
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var bytes [16]byte
	for i := range 32 {
		digit := strings.IndexByte("0123456789abcdef", rest[2*i])
		if digit < 0 || (i < 31 && rest[2*i+1] != '.') {
			return netip.Addr{}, false
		}
		bytes[15-i/2] |= byte(digit) << (4 * (i % 2))
	}
	return netip.AddrFrom16(bytes), true
}
