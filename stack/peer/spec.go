package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// DefaultPort is the port of a peer whose specification names none, whatever
// its kind.
const DefaultPort = 80

// Spec is one peer: the name by which the guest reaches it, what it does, and
// the port on which it does it. A name may have several peers, each on a port
// of its own; they share the host of that name. Ports of the host that no peer
// has are refused.
type Spec struct {
	Name string // lower case, one DNS label or several with dots, no trailing dot
	Kind Kind
	Port uint16
}

// String returns the form that ParseSpec reads, with the port.
func (s Spec) String() string {
	return s.Name + "=" + s.Kind.String() + ":" + strconv.Itoa(int(s.Port))
}

// ParseSpec reads NAME=KIND[:PORT], as in "web=http" or "db=holder:5432".
// Without a port it is DefaultPort, for every kind. Letters of the name are
// folded to lower case, and a last dot is left out; "localhost" and addresses
// are no names.
func ParseSpec(text string) (Spec, error) {
	name, rest, found := strings.Cut(text, "=")
	if !found {
		return Spec{}, fmt.Errorf("peer: %q: expected NAME=KIND[:PORT], such as web=http or db=holder:5432", text)
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err := checkName(name); err != nil {
		return Spec{}, fmt.Errorf("peer: %q: %w", text, err)
	}
	kindName, portText, hasPort := strings.Cut(rest, ":")
	kind, err := ParseKind(kindName)
	if err != nil {
		return Spec{}, err
	}
	spec := Spec{Name: name, Kind: kind, Port: DefaultPort}
	if hasPort {
		if spec.Port, err = parsePort(portText); err != nil {
			return Spec{}, fmt.Errorf("peer: %q: %w", text, err)
		}
	}
	return spec, nil
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || text[0] == '+' {
		return 0, fmt.Errorf("%q is not a port; ports are 1 to 65535", text)
	}
	return uint16(port), nil
}

// checkName says what keeps name, in lower case, from being a host's name:
// labels of letters, digits, hyphens and underscores (RFC 1123, section 2.1;
// the underscore because people use it), and at most 253 bytes in all.
func checkName(name string) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	if len(name) > 253 {
		return fmt.Errorf("the name has %d bytes; a name has at most 253", len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
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
	last := labels[len(labels)-1]
	if last == "localhost" || name == "ip6-localhost" || name == "ip6-loopback" { // as /etc/hosts has it
		return fmt.Errorf("%q is the guest itself; choose another name", name)
	}
	if _, err := netip.ParseAddr(name); err == nil || numeric(last) {
		return fmt.Errorf("%q is read as an address; choose a name that does not end in a number", name)
	}
	return nil
}

// numeric reports whether resolvers would take a name that ends in this label
// for an IPv4 address, as inet_aton(3) does: digits, or 0x and hex digits.
func numeric(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// Check reports every pair of specs that want the same port of the same name,
// joined; nil when there is none.
func Check(specs []Spec) error {
	type place struct {
		name string
		port uint16
	}
	var errs []error
	first := make(map[place]Spec, len(specs))
	for _, spec := range specs {
		at := place{spec.Name, spec.Port}
		if other, taken := first[at]; taken {
			errs = append(errs, fmt.Errorf("peer: %s and %s want the same port; give one of them another, as in --peer %s=%s:%d",
				other, spec, spec.Name, spec.Kind, nextPort(spec.Port)))
			continue
		}
		first[at] = spec
	}
	return errors.Join(errs...)
}

// nextPort returns a port to suggest in place of port.
func nextPort(port uint16) uint16 {
	if port < 57535 {
		return port + 8000
	}
	return DefaultPort
}
