package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseError says what is wrong with a rule or a value of --net.
type ParseError struct {
	Input   string // all that was to be parsed
	Column  int    // the byte of Input that the fault begins at, from 1
	Message string // what is wrong
	Hint    string // what to write instead; never empty
}

// Error returns the input and the message, without the hint, on one line.
func (e *ParseError) Error() string {
	where := ""
	if e.Column > 1 {
		where = fmt.Sprintf("column %d: ", e.Column)
	}
	return fmt.Sprintf("policy: %q: %s%s", e.Input, where, e.Message)
}

const (
	formHint  = "a rule is ADDRESS, CIDR, @public, @private, @host or @metadata, then :PORT or :PORT-PORT if wanted, then /tcp, /udp or /icmp if wanted"
	nameHint  = "names in rules are not supported yet; give an address, a CIDR, or @public, @private, @host or @metadata"
	protoHint = "the protocols are tcp, udp and icmp"
	portHint  = "a port is a number from 1 to 65535, and a range is two of them, such as 8000-8080; without one a rule means every port"
)

// ParseRule parses the pattern of a rule, which the package comment describes.
// The error is a *ParseError.
func ParseRule(action Action, text string) (Rule, error) {
	r := Rule{action: action}
	rest, proto := cutProto(text)
	port, err := parseTarget(&r, text, rest)
	if err != nil {
		return Rule{}, err
	}
	if port >= 0 {
		if err := parsePorts(&r, text, rest[port:], port); err != nil {
			return Rule{}, err
		}
	}
	if proto >= 0 {
		if err := parseProto(&r, text, proto); err != nil {
			return Rule{}, err
		}
	}
	if action == Allow && r.isLoopback() {
		return Rule{}, fault(text, 0, loopbackHint(r), "no rule with an address allows loopback")
	}
	return newRule(r), nil
}

// loopbackHint says how the host's loopback is reached instead. The guest's own
// needs no rule.
func loopbackHint(r Rule) string {
	r.group = host
	return fmt.Sprintf("for the host's: --allow %s, and connect to host.tcpbox.internal; the guest's own needs no rule", r.format())
}

// fault makes a ParseError about what stands at offset.
func fault(input string, offset int, hint, format string, args ...any) *ParseError {
	return &ParseError{Input: input, Column: offset + 1, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// cutProto splits text in front of its last "/" where a letter follows, which
// a prefix length has not. The offset of the protocol is -1 if there is none.
func cutProto(text string) (rest string, proto int) {
	slash := strings.LastIndexByte(text, '/')
	if slash < 0 || slash+1 == len(text) || !isLetter(text[slash+1]) {
		return text, -1
	}
	return text[:slash], slash + 1
}

func parseProto(r *Rule, input string, offset int) error {
	for proto := TCP; proto < numProtos; proto++ {
		if proto.String() == input[offset:] {
			r.proto = proto
		}
	}
	switch {
	case r.proto == AnyProto:
		return fault(input, offset, protoHint, "%q is not a protocol", input[offset:])
	case r.proto == ICMP && r.last != 0:
		return fault(input, offset, "leave the port away, or name tcp or udp", "ICMP has no ports")
	}
	return nil
}

// parseTarget parses what stands in front of the port in rest, the input
// without its protocol, and returns the offset of the port, -1 if there is
// none.
func parseTarget(r *Rule, input, rest string) (port int, err error) {
	switch {
	case rest == "":
		return -1, fault(input, 0, formHint, "the rule has no address")
	case rest[0] == '@':
		name, port := cutPort(rest)
		return port, parseGroup(r, input, name)
	case rest[0] == '[':
		return parseBrackets(r, input, rest)
	case strings.Count(rest, ":") >= 2:
		return -1, parsePrefix(r, input, 0, rest)
	default:
		target, port := cutPort(rest)
		return port, parsePrefix(r, input, 0, target)
	}
}

// cutPort splits text at its first colon.
func cutPort(text string) (target string, port int) {
	colon := strings.IndexByte(text, ':')
	if colon < 0 {
		return text, -1
	}
	return text[:colon], colon + 1
}

func parseGroup(r *Rule, input, name string) error {
	for g := public; g < numGroups; g++ {
		if groupNames[g] == name {
			r.group = g
			return nil
		}
	}
	return fault(input, 0, "the groups are @public, @private, @host and @metadata", "%q is not a group", name)
}

// parseBrackets parses "[ADDR]:PORT" and "[CIDR]:PORT".
func parseBrackets(r *Rule, input, rest string) (port int, err error) {
	end := strings.IndexByte(rest, ']')
	if end < 0 {
		return -1, fault(input, 0, "close the bracket: [2001:db8::7]:443", "the bracket is not closed")
	}
	inner, after := rest[1:end], rest[end+1:]
	if !strings.Contains(inner, ":") {
		return -1, fault(input, 1, "brackets are for IPv6; write an IPv4 address or CIDR without them", "%q is not IPv6", inner)
	}
	if err := parsePrefix(r, input, 1, inner); err != nil {
		return -1, err
	}
	switch {
	case after == "":
		return -1, nil
	case after[0] == ':':
		return end + 2, nil
	case after[0] == '/':
		return -1, fault(input, end+1, "the prefix length stands inside the brackets: [2001:db8::/32]:443", "%q stands outside the brackets", after)
	default:
		return -1, fault(input, end+1, "behind the bracket comes a port: [2001:db8::7]:443", "%q stands behind the bracket", after)
	}
}

// parsePrefix parses an address or a CIDR. The text stands at offset in input.
func parsePrefix(r *Rule, input string, offset int, text string) error {
	addrText, bitsText, isCIDR := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(addrText)
	if err != nil {
		return badAddr(input, offset, addrText)
	}
	if addr.Zone() != "" {
		return fault(input, offset+strings.IndexByte(text, '%'), "give the address without its zone", "an address in a rule has no zone")
	}
	bits := addr.BitLen()
	if isCIDR {
		at := offset + len(addrText) + 1
		if bits, err = parseBits(bitsText); err != nil {
			length, port, _ := strings.Cut(bitsText, ":")
			_, notBits := parseBits(length)
			if notBits == nil && parsePorts(&Rule{}, input, port, 0) == nil {
				return fault(input, at+len(length), fmt.Sprintf("with a port, IPv6 stands in brackets: [%s/%s]:%s", addrText, length, port),
					"%q is not a prefix length", bitsText)
			}
			return fault(input, at, prefixHint(addr), "%q is not a prefix length", bitsText)
		}
		if bits > addr.BitLen() {
			return fault(input, at, prefixHint(addr), "the prefix length %d is more than %d", bits, addr.BitLen())
		}
	}
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	r.prefix = netip.PrefixFrom(addr, bits)
	if masked := r.prefix.Masked(); masked != r.prefix {
		return fault(input, offset, fmt.Sprintf("write %s for the network, or %s for the one address", masked, addr),
			"%s has bits set behind its prefix", r.prefix)
	}
	return nil
}

func prefixHint(addr netip.Addr) string {
	return fmt.Sprintf("a prefix length is a number from 0 to %d", addr.BitLen())
}

// parseBits accepts digits alone, no sign and no leading zero.
func parseBits(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 8)
	if err == nil && len(text) > 1 && text[0] == '0' {
		err = strconv.ErrSyntax
	}
	return int(n), err
}

// badAddr says what an address that did not parse was perhaps meant to be.
func badAddr(input string, offset int, text string) error {
	switch {
	case text == "":
		return fault(input, offset, formHint, "the rule has no address")
	case strings.Contains(input, "://"):
		return fault(input, offset, "a rule is not a URL; give the address and the port, such as 192.0.2.7:443", "%q is not an address", text)
	case strings.Trim(text, "0123456789.") == "":
		return fault(input, offset, "an IPv4 address is four numbers from 0 to 255 without leading zeros, such as 192.0.2.7", "%q is not an IPv4 address", text)
	case strings.Contains(text, ":"):
		return fault(input, offset, "an IPv6 address looks like 2001:db8::7, and with a port like [2001:db8::7]:443", "%q is not an IPv6 address", text)
	case strings.Contains(text, "*"):
		return fault(input, offset, "every address is 0.0.0.0/0 and ::/0, or --net all", "%q is not an address", text)
	default:
		return fault(input, offset, nameHint, "%q is not an address", text)
	}
}

// parsePorts parses "PORT" or "PORT-PORT", which stands at offset in input.
func parsePorts(r *Rule, input, text string, offset int) error {
	firstText, lastText, isRange := strings.Cut(text, "-")
	first, ok := parsePort(firstText)
	if !ok {
		return fault(input, offset, portHint, "%q is not a port", firstText)
	}
	last := first
	if isRange {
		if last, ok = parsePort(lastText); !ok {
			return fault(input, offset+len(firstText)+1, portHint, "%q is not a port", lastText)
		}
	}
	if last < first {
		return fault(input, offset, fmt.Sprintf("write the lower port first: %d-%d", last, first), "the range %d-%d is empty", first, last)
	}
	r.first, r.last = first, last
	return nil
}

// parsePort accepts digits alone, no sign and no leading zero.
func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n != 0 && text[0] != '0'
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
