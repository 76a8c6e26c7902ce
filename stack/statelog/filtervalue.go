package statelog

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"tcpbox/stack/tcpstate"
)

// causeWords are the words of causes: the kinds, and which there are of each
// (docs/state-log.md).
var causeWords = []string{
	"segment", "call", "timer", "policy", "unknown",
	"SYN", "SYN-ACK", "ACK", "FIN", "FIN-ACK", "RST", "ICMP", "unacceptable",
	"connect", "listen", "shutdown", "close", "abort",
	"time-wait", "fin-wait-2", "retransmission",
	"time-wait.reuse", "time-wait.max", "reopened", "orphan", "orphan.retries", "orphan.max", "half-close-timeout", "stopped",
	"conn rst", "conn close",
}

var sourceWords = []string{"stack", "kernel", "wire", "diag", "socket", "unknown"}

func legNames() (names []string) {
	for _, l := range tcpstate.Legs() {
		names = append(names, l.String())
	}
	return names
}

// closedWords are the words of who closed first, and how.
func closedWords() []string {
	words := legNames()
	for _, how := range tcpstate.Hows() {
		words = append(words, how.String())
	}
	return words
}

// operators are how ss(8) writes comparisons.
var operators = map[string]portOp{
	"=": equalTo, "==": equalTo, "eq": equalTo,
	"<": less, "lt": less, "<=": lessOrEqual, "le": lessOrEqual, "leq": lessOrEqual,
	">": greater, "gt": greater, ">=": greaterOrEqual, "ge": greaterOrEqual, "geq": greaterOrEqual,
}

// operator parses what may stand between keyword and value, and reports whether
// it says "not equal".
func (p *filterParser) operator(n *node) (not bool, err error) {
	ports := n.kind == isSport || n.kind == isDport || n.kind == isPort
	if ports {
		n.op = equalTo
	}
	word := p.next()
	switch op := operators[word]; {
	case word == "!=" || word == "ne" || word == "neq":
		not = true
	case op == noPort:
		return false, nil // left out
	case ports:
		n.op = op
	case op != equalTo:
		return false, p.fault("compares ports only; here it is = or !=", nil)
	}
	p.at++
	return not, nil
}

// value parses the word behind the keyword.
func (p *filterParser) value(n *node) error {
	word := ""
	if p.at < len(p.tokens) {
		word = p.tokens[p.at].text
	}
	text, known := "", []string(nil)
	switch n.kind {
	case isState, isFrom, isTo:
		set, err := tcpstate.ParseSet(word)
		if n.set |= set; err != nil {
			text, known = "is neither a TCP state nor a group of them", tcpstate.SetNames()
		}
	case isHost:
		if text = n.setAddress(word); text == badAddress {
			if name := strings.TrimSuffix(word, "."); isName(name) {
				text, n.cause = "", name
			}
		}
	case isSrc, isDst:
		text = n.setAddress(word)
	case isSport, isDport, isPort:
		port, ok := parsePort(strings.TrimPrefix(word, ":"))
		if n.port = port; !ok {
			text = "is not a port, which is a number up to 65535"
		}
	case isLeg:
		if n.leg.UnmarshalText([]byte(strings.ToLower(word))) != nil || n.leg == 0 {
			text, known = "is not a leg", legNames()
		}
	case isSource:
		if n.source.UnmarshalText([]byte(strings.ToLower(word))) != nil {
			text, known = "is not a source of records", sourceWords
		}
	case isCause:
		i := slices.IndexFunc(causeWords, func(w string) bool { return strings.EqualFold(w, word) })
		if i < 0 {
			text, known = "is not a cause", causeWords
		} else {
			n.cause = causeWords[i]
		}
	case isClosedBy:
		known = closedWords()
		if i := slices.IndexFunc(known, func(w string) bool { return strings.EqualFold(w, word) }); i < 0 {
			text = "is neither who closes nor how"
		} else {
			n.cause = known[i]
		}
	case isCommand:
		n.cause = word
	case isPID:
		pid, err := strconv.ParseUint(word, 10, 31)
		if n.pid = int(pid); err != nil || pid == 0 {
			text = "is not the number of a process"
		}
	case isConn:
		number, err := strconv.ParseUint(strings.TrimPrefix(word, "#"), 10, 64)
		if n.conn = tcpstate.Conn(number); err != nil {
			text = "is not a connection's number"
		}
	}
	if p.at == len(p.tokens) {
		return p.fault("a value is missing", known)
	}
	if text != "" {
		return p.fault(text, known)
	}
	p.at++
	return nil
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil
}

const badAddress = "is not an address, CIDR or :PORT; IPv6 with a port is [ADDRESS]:PORT"

// isName reports whether word, without the dot of the root, may be a host's name:
// it has a letter and no empty label, and is no word of the language.
func isName(word string) bool {
	if strings.Contains("."+word+".", "..") {
		return false
	}
	letter := false
	for _, r := range strings.ToLower(word) {
		switch {
		case r >= 'a' && r <= 'z':
			letter = true
		case r >= '0' && r <= '9', r == '-', r == '_', r == '.':
		default:
			return false
		}
	}
	return letter && len(word) <= 253 && !slices.Contains(keywordNames, strings.ToLower(word))
}

// setAddress parses ADDRESS, CIDR, either with :PORT, :PORT alone, and * for
// any. IPv6 before a port stands in brackets. It returns what is wrong.
func (n *node) setAddress(word string) (fault string) {
	host, port := word, ""
	switch inside, rest, bracket := strings.Cut(strings.TrimPrefix(word, "["), "]"); {
	case strings.HasPrefix(word, "[") && !bracket:
		return badAddress
	case strings.HasPrefix(word, "["):
		length, behind, hasPort := strings.Cut(rest, ":")
		if host, port = inside+length, behind; length != "" && length[0] != '/' || hasPort && behind == "" {
			return badAddress
		}
	case strings.Count(word, ":") == 1:
		if host, port, _ = strings.Cut(word, ":"); port == "" {
			return badAddress
		}
	}
	if port != "" && port != "*" {
		number, ok := parsePort(port)
		if !ok {
			return "has a port that is not a number up to 65535"
		}
		n.op, n.port = equalTo, number
	}
	if host == "*" || host == "" && port != "" {
		return ""
	}
	prefix, ok := parsePrefix(host)
	if n.prefix = prefix; !ok {
		return badAddress
	}
	return ""
}

// parsePrefix reads an address or a CIDR. IPv4 written as IPv6 becomes IPv4, as
// records are compared.
func parsePrefix(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), addr.Zone() == ""
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	if addr := p.Addr(); addr.Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(addr.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}
