package tcpbox

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Publish makes ports of the guest reachable from outside. The zero Publish is
// invalid: it names no port.
type Publish struct {
	// Host is the host's address. The zero Addr means 127.0.0.1, so that only
	// the host itself can reach it. The guest is reached over the family of the
	// address.
	Host netip.Addr

	// HostPort is the host's port. Zero takes one that is free.
	HostPort uint16

	// Port is the guest's.
	Port uint16

	// Count is how many ports there are, from HostPort and Port on, or with a
	// zero HostPort as many free ones. Zero means one.
	Count uint16

	// UDP: else TCP.
	UDP bool

	// From are the clients that are let in. Empty means all. It is no part of
	// the text.
	From []netip.Prefix
}

// PublishError says what is wrong with a port that is to be published, and if
// there is a next step, what it is. Spec is its text.
type PublishError struct {
	Spec string
	Err  error
	Hint string
}

func (e *PublishError) Error() string { return fmt.Sprintf("publish %q: %v", e.Spec, e.Err) }

// Unwrap returns the cause.
func (e *PublishError) Unwrap() error { return e.Err }

// MaxPublished is how many ports a sandbox may publish.
const MaxPublished = 1024

const publishForm = "it is [ADDRESS:]HOSTPORT:PORT, with /udp for UDP; ports may be ranges, as in 8000-8009:80-89"

// ParsePublish reads "[ADDRESS:]HOSTPORT:PORT[/tcp|/udp]", as docker has it. An
// IPv6 address stands in brackets. Ports may be ranges of the same length.
// HOSTPORT may be left out or zero to take one that is free. The error is a
// *PublishError.
func ParsePublish(text string) (Publish, error) {
	p, err := parsePublish(text)
	if err != nil {
		err.Spec = text
		return Publish{}, err
	}
	return p, nil
}

func badPublish(hint, format string, args ...any) *PublishError {
	if hint == "" {
		hint = publishForm
	}
	return &PublishError{Err: fmt.Errorf(format, args...), Hint: hint}
}

func parsePublish(text string) (p Publish, err *PublishError) {
	rest, proto, hasProto := strings.Cut(text, "/")
	switch {
	case hasProto && proto == "udp":
		p.UDP = true
	case hasProto && proto != "tcp":
		return p, badPublish("tcp or udp", "%q is not a protocol", proto)
	}
	host, ports := "", rest
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]:")
		if end < 0 {
			return p, badPublish("", "the bracket is not closed in front of a port")
		}
		host, ports = rest[1:end], rest[end+2:]
		if p.Host, err = parsePublishAddr(host, true); err != nil {
			return p, err
		}
	} else if strings.Count(rest, ":") == 2 {
		host, ports, _ = strings.Cut(rest, ":")
		if p.Host, err = parsePublishAddr(host, false); err != nil {
			return p, err
		}
	}
	hostPort, port, both := strings.Cut(ports, ":")
	if !both {
		hostPort, port = "", ports
	}
	if strings.Contains(port, ":") {
		return p, badPublish("an IPv6 address stands in brackets: [::1]:8080:80", "too many colons")
	}
	return p, p.parsePorts(hostPort, port)
}

func parsePublishAddr(text string, six bool) (netip.Addr, *PublishError) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, badPublish("an address of this host, such as 127.0.0.1, or 0.0.0.0 for all of IPv4", "%q is not an address", text)
	case a.Is4In6():
		return a, badPublish("write it as IPv4: "+a.Unmap().String(), "%q is IPv4 in another form", text)
	case a.Zone() != "":
		return a, badPublish("publish on [::] and say who may come with --accept-from", "a link-local address with a zone is not supported")
	case notAHost(a):
		return a, badPublish("", "%q is a group, not a host", text)
	case a.Is6() != six:
		return a, badPublish("", "%q has no brackets around it if it is IPv4", text)
	}
	return a, nil
}

// notAHost reports whether an address is that of many: nothing could listen on it.
func notAHost(a netip.Addr) bool {
	return a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parsePorts reads the two ports or ranges.
func (p *Publish) parsePorts(hostPort, port string) *PublishError {
	first, last, err := parseRange(port)
	switch {
	case err != nil:
		return err
	case first == 0:
		return badPublish("", "port 0 of the guest is none")
	}
	p.Port = first
	if last > first {
		p.Count = last - first + 1
	}
	if hostPort == "" || hostPort == "0" {
		return p.checkCount()
	}
	hostFirst, hostLast, err := parseRange(hostPort)
	switch {
	case err != nil:
		return err
	case hostLast-hostFirst != last-first:
		return badPublish("one port of the host is one of the guest's", "the ranges %s and %s are not of the same length", hostPort, port)
	case hostFirst == 0:
		return badPublish("0 alone takes ports that are free", "a range does not begin at port 0")
	}
	p.HostPort = hostFirst
	return p.checkCount()
}

func (p *Publish) checkCount() *PublishError {
	if p.Count > MaxPublished {
		return badPublish("a range reaches from its first port to its last, both included", "%d ports are more than %d", p.Count, MaxPublished)
	}
	return nil
}

func parseRange(text string) (first, last uint16, err *PublishError) {
	a, b, ranged := strings.Cut(text, "-")
	if !ranged {
		b = a
	}
	if first, err = parsePort(a); err != nil {
		return 0, 0, err
	}
	if last, err = parsePort(b); err != nil {
		return 0, 0, err
	}
	if ranged && last <= first {
		return 0, 0, badPublish("", "the range %s ends before it begins", text)
	}
	return first, last, nil
}

func parsePort(text string) (uint16, *PublishError) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text[0] == '+' || len(text) > 5 {
		return 0, badPublish("", "%q is not a port", text)
	}
	return uint16(n), nil
}

// String returns the text that ParsePublish reads, with the address that is
// meant and without /tcp.
func (p Publish) String() string {
	host := p.host()
	text := host.String()
	if host.Is6() {
		text = "[" + text + "]"
	}
	text += ":"
	if n := p.ports(); n > 1 {
		if p.HostPort != 0 {
			text += fmt.Sprintf("%d-%d", p.HostPort, int(p.HostPort)+n-1)
		} else {
			text += "0"
		}
		text += fmt.Sprintf(":%d-%d", p.Port, int(p.Port)+n-1)
	} else {
		text += fmt.Sprintf("%d:%d", p.HostPort, p.Port)
	}
	if p.UDP {
		text += "/udp"
	}
	return text
}

func (p Publish) host() netip.Addr {
	if !p.Host.IsValid() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return p.Host.Unmap()
}

func (p Publish) ports() int { return max(1, int(p.Count)) }

// each returns the ports one by one.
func (p Publish) each() []Publish {
	all := make([]Publish, p.ports())
	for i := range all {
		one := p
		one.Count, one.Port = 0, p.Port+uint16(i)
		if p.HostPort != 0 {
			one.HostPort = p.HostPort + uint16(i)
		}
		all[i] = one
	}
	return all
}

// check reports what ParsePublish would not have let through.
func (p Publish) check(noIPv6 bool) *PublishError {
	var err *PublishError
	switch n := p.ports() - 1; {
	case p.Port == 0:
		err = badPublish("", "port 0 of the guest is none")
	case int(p.Port)+n > math.MaxUint16 || int(p.HostPort)+n > math.MaxUint16:
		err = badPublish("", "the range goes beyond port 65535")
	case notAHost(p.host()):
		err = badPublish("", "%v is a group, not a host", p.host())
	case p.host().Is6() && noIPv6:
		err = badPublish("leave --no-ipv6 out, or publish on an IPv4 address", "the sandbox has no IPv6")
	default:
		err = p.checkCount()
	}
	if err == nil {
		for _, from := range p.From {
			if _, bad := ParseAcceptFrom(from.String()); bad != nil {
				err = badPublish("", "who may come: %w", bad)
			}
		}
	}
	if err != nil {
		err.Spec = p.String()
	}
	return err
}

// lets reports whether a client may come in.
func (p *Publish) lets(client netip.Addr) bool {
	if len(p.From) == 0 {
		return true
	}
	client = client.WithZone("")
	for _, from := range p.From {
		if from.Contains(client) {
			return true
		}
	}
	return false
}

// ParseAcceptFrom reads a prefix or an address of clients that may come in.
func ParseAcceptFrom(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q: not an address or a prefix such as 192.0.2.0/24", text)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q: it is IPv4 in another form", text)
	case p.Masked() != p:
		return p, fmt.Errorf("%q: it has host bits set; did you mean %v?", text, p.Masked())
	}
	return p, nil
}
