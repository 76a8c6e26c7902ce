package document

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/policy/spell"
)

// Parse reads a document. file is for messages. The error joins all faults, each
// a *Fault, and then the Document is zero.
func Parse(file string, data []byte) (Document, error) {
	p := &reader{file: file, knobs: map[string]key{}}
	root := p.read(data)
	var d Document
	if root != nil {
		p.root(root, &d)
	}
	if err := p.err(); err != nil {
		return Document{}, err
	}
	return d, nil
}

// A section reads the value of one key.
type section struct {
	name string
	read func(p *reader, n *node, d *Document)
}

// sections are the keys at the top, in the order in which String prints them.
var sections = []section{
	{"version", (*reader).version},
	{"preset", (*reader).preset},
	{"net", (*reader).net},
	{"rules", (*reader).rules},
	{"tcp", (*reader).tcp},
	{"sysctl", (*reader).sysctl},
	{"limits", (*reader).limits},
	{"dns", (*reader).dns},
	{"faults", (*reader).faultRules},
}

func (p *reader) root(root *node, d *Document) {
	if root.kind != mapping {
		p.at(root, "the least is: version: 1", "a policy is a mapping, not %v", root.kind)
		return
	}
	versioned := false
	for _, k := range root.keys {
		s := find(sections, k.name)
		if s == nil {
			p.unknown(k, "key", sectionNames(sections))
			continue
		}
		versioned = versioned || k.name == "version"
		s.read(p, k.value, d)
	}
	if !versioned {
		p.at(root, "begin with: version: 1", "the version is missing")
	}
	p.conflicts(d)
}

func find(sections []section, name string) *section {
	for i := range sections {
		if sections[i].name == name {
			return &sections[i]
		}
	}
	return nil
}

func sectionNames(sections []section) []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}

// unknown is the fault of a key that there is not.
func (p *reader) unknown(k key, what string, known []string) {
	hint := "the " + what + "s are " + strings.Join(known, ", ")
	if len(k.name) <= 64 {
		if near := spell.Nearest(strings.ToLower(k.name), known, len(k.name)/3+2); near != "" {
			hint = "did you mean " + near + "?"
		}
	}
	p.fault(k.line, k.column, hint, "there is no %s %q", what, k.name)
}

// value returns the text of a scalar.
func (p *reader) value(n *node, what string) (string, bool) {
	if n.kind != scalar {
		p.at(n, "", "%s is a single value, not %v", what, n.kind)
		return "", false
	}
	return n.text, true
}

// mapping reports whether n is one.
func (p *reader) mapping(n *node, what, example string) bool {
	if n.kind != mapping {
		p.at(n, "such as: "+example, "%s is a mapping, not %v", what, n.kind)
	}
	return n.kind == mapping
}

func (p *reader) version(n *node, _ *Document) {
	if text, ok := p.value(n, "version"); ok && text != strconv.Itoa(Version) {
		p.at(n, "this tcpbox reads version 1", "%q is not a version that it reads", text)
	}
}

func (p *reader) preset(n *node, d *Document) {
	text, ok := p.value(n, "preset")
	if !ok {
		return
	}
	if _, ok := Presets[text]; !ok {
		hint := "the presets are " + strings.Join(PresetNames(), ", ")
		p.at(n, hint, "there is no preset %q", text)
		return
	}
	d.Preset = text
}

func (p *reader) net(n *node, d *Document) {
	text, ok := p.value(n, "net")
	if !ok {
		return
	}
	net, err := policy.ParseNet(text)
	if err != nil {
		p.at(n, "net is none, public or all", "%q is not a value of net", text)
		return
	}
	d.Net = &net
}

const ruleHint = "a rule is allow or deny and a pattern, such as: allow 203.0.113.0/24:443"

func (p *reader) rules(n *node, d *Document) {
	if n.kind != list {
		p.at(n, "begin each rule with -", "rules is a list, not %v", n.kind)
		return
	}
	for _, item := range n.items {
		if item.kind != scalar {
			p.at(item, ruleHint, "a rule is a single value, not %v", item.kind)
			continue
		}
		word, pattern, _ := strings.Cut(item.text, " ")
		action, known := policy.Deny, word == "deny"
		if word == "allow" {
			action, known = policy.Allow, true
		}
		if !known || pattern == "" {
			p.at(item, ruleHint, "%q is not a rule", item.text)
			continue
		}
		rule, err := policy.ParseRule(action, strings.TrimLeft(pattern, " "))
		if err != nil {
			var fault *policy.ParseError
			hint, message := ruleHint, err.Error()
			if errors.As(err, &fault) {
				hint, message = fault.Hint, fmt.Sprintf("%q: %s", fault.Input, fault.Message)
			}
			p.at(item, hint, "%s", message)
			continue
		}
		d.Rules = append(d.Rules, Rule{rule, p.source(item.line)})
	}
}

func (p *reader) faultRules(n *node, d *Document) {
	const hint = "a fault is an action and what it is done to, such as: loss 5%"
	if n.kind != list {
		p.at(n, "begin each fault with -", "faults is a list, not %v", n.kind)
		return
	}
	for _, item := range n.items {
		if item.kind != scalar {
			p.at(item, hint, "a fault is a single value, not %v", item.kind)
			continue
		}
		f, err := policy.ParseFault(item.text)
		if err != nil {
			hint, message := hint, err.Error()
			var fault *policy.ParseError
			if errors.As(err, &fault) {
				hint, message = fault.Hint, fmt.Sprintf("%q, at column %d of it: %s", fault.Input, fault.Column, fault.Message)
			}
			p.at(item, hint, "%s", message)
			continue
		}
		d.Faults = append(d.Faults, FaultRule{f, p.source(item.line)})
	}
}

func (p *reader) tcp(n *node, d *Document) {
	if !p.mapping(n, "tcp", "{time-wait.timeout: 10s}") {
		return
	}
	for _, k := range n.keys {
		text, ok := p.value(k.value, k.name)
		if !ok {
			continue
		}
		s, err := knob.ParseSetting(k.name + "=" + text)
		if strings.Contains(k.name, "=") {
			err = &knob.Error{Message: fmt.Sprintf("there is no knob %q", k.name), Hint: "a setting is KEY: VALUE"}
		}
		if err != nil {
			var fault *knob.Error
			if errors.As(err, &fault) {
				line, column := k.value.line, k.value.column
				if strings.HasPrefix(fault.Message, "there is no knob") {
					line, column = k.line, k.column
				}
				p.fault(line, column, fault.Hint, "%s: %s", k.name, fault.Message)
			}
			continue
		}
		s.Source = p.source(k.line)
		d.TCP = append(d.TCP, s)
		p.knobs[k.name] = k
	}
}

func (p *reader) sysctl(n *node, d *Document) {
	if !p.mapping(n, "sysctl", "{net.ipv4.tcp_rfc1337: 1}") {
		return
	}
	for _, k := range n.keys {
		text, ok := p.value(k.value, k.name)
		if !ok {
			continue
		}
		s := knob.Sysctl{Name: k.name, Value: text, Source: p.source(k.line)}
		if err := knob.CheckSysctl(s); err != nil {
			var fault *knob.Error
			if errors.As(err, &fault) {
				p.fault(k.line, k.column, fault.Hint, "%s: %s", strconv.Quote(k.name), fault.Message)
			}
			continue
		}
		d.Sysctls = append(d.Sysctls, s)
	}
}

func (p *reader) limits(n *node, d *Document) {
	if !p.mapping(n, "limits", "{connections: 1000}") {
		return
	}
keys:
	for _, k := range n.keys {
		var names []string
		for _, l := range LimitKeys {
			names = append(names, l.Name)
			if l.Name != k.name {
				continue
			}
			if text, ok := p.value(k.value, k.name); ok {
				number, ok := l.parse(text)
				if !ok {
					p.at(k.value, l.hint(), "%s", l.wrong(text))
				}
				*l.field(&d.Limits) = number
			}
			continue keys
		}
		p.unknown(k, "limit", names)
	}
}

var dnsSections = []section{{"servers", (*reader).servers}, {"hosts", (*reader).hosts}}

func (p *reader) dns(n *node, d *Document) {
	if !p.mapping(n, "dns", "{servers: none}") {
		return
	}
	for _, k := range n.keys {
		if s := find(dnsSections, k.name); s != nil {
			s.read(p, k.value, d)
		} else {
			p.unknown(k, "key of dns", sectionNames(dnsSections))
		}
	}
}

const serversHint = "servers is host, none or a list of addresses, such as: [192.0.2.53]"

func (p *reader) servers(n *node, d *Document) {
	switch {
	case n.kind == scalar && n.text == "host":
		d.DNS.Mode = DNSHost
	case n.kind == scalar && n.text == "none":
		d.DNS.Mode = DNSNone
	case n.kind == list && len(n.items) > 0:
		d.DNS.Mode = DNSServers
		for _, item := range n.items {
			if _, ok := p.value(item, "a server"); !ok {
				continue
			}
			server, ok := parseServer(item.text)
			if !ok {
				p.at(item, "a server is ADDRESS or ADDRESS:PORT, with IPv6 before a port in brackets", "%q is not a server", item.text)
				continue
			}
			d.DNS.Servers = append(d.DNS.Servers, server)
		}
	default:
		p.at(n, serversHint, "that is no list of servers")
	}
}

// resolverPort is where a server listens that has no port.
const resolverPort = 53

func parseServer(text string) (netip.AddrPort, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), resolverPort), addr.Zone() == ""
	}
	server, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(server.Addr().Unmap(), server.Port()), err == nil && server.Port() != 0 && server.Addr().Zone() == ""
}

func (p *reader) hosts(n *node, d *Document) {
	if !p.mapping(n, "hosts", "{db: 192.0.2.5}") {
		return
	}
	for _, k := range n.keys {
		name := strings.ToLower(strings.TrimSuffix(k.name, "."))
		if !isHostName(name) {
			p.fault(k.line, k.column, "a name has letters, digits, hyphens and dots", "%q is not a name", k.name)
			continue
		}
		items := k.value.items
		if k.value.kind != list {
			items = []*node{k.value}
		}
		for _, item := range items {
			addr, err := netip.ParseAddr(item.text)
			if item.kind != scalar || err != nil || addr.Zone() != "" {
				p.at(item, "such as: "+strconv.Quote(name)+": 192.0.2.5", "%q is not an address", item.text)
				continue
			}
			d.DNS.Hosts = append(d.DNS.Hosts, HostAddr{name, addr.Unmap()})
		}
	}
}

// isHostName reports whether name is one of the Internet's (RFC 1123, section
// 2.1), or one with _ in it, which people use.
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}
