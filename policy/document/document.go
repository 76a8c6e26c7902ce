// Package document reads and prints the policy document: what one sandbox may
// reach, and how TCP behaves in it. It is pure, and applies nothing.
//
// A document is YAML, or the same as JSON:
//
//	version: 1
//	preset: linux
//	net: public                      # none | public | all
//	rules:                           # the first that matches decides
//	  - allow 203.0.113.0/24:443
//	  - deny @private
//	tcp:
//	  time-wait.timeout: 10s
//	  stack.syn-backlog: 256
//	sysctl: {net.ipv4.tcp_rfc1337: 1}
//	limits: {connections: 1000}
//	dns: {servers: host, hosts: {db: 192.0.2.5}}
//	faults: [loss 5%, drop first ack when stack=FIN-WAIT-1]
//
// Parse is strict and reports all faults at once, each a *Fault with its place
// and the nearest word that is right. Of YAML it takes mappings, lists and plain
// or quoted values: no anchors, tags, blocks of text or second documents. A
// value is what is written: on stays on.
//
// What stands in the document wins over its preset, and what is laid over it
// (Over) wins over both, key by key: a setting without a leg replaces those of
// the same key on every leg.
package document

import (
	"net/netip"
	"slices"

	"tcpbox/policy"
	"tcpbox/policy/knob"
)

// Version is that of the documents that Parse reads and String prints.
const Version = 1

// Document is a policy. The zero Document says nothing: what it is laid over
// holds, and at last the defaults.
type Document struct {
	Preset string // a key of Presets; empty: none

	Net   *policy.Net // nil: not said
	Rules []Rule

	// TCP are the settings of the document itself. Settings also has those of
	// its preset.
	TCP []knob.Setting

	Sysctls []knob.Sysctl // parameters of the guest's network namespace, as they are written
	Limits  Limits
	DNS     DNS
	Faults  []FaultRule // in their order: a packet goes through all of them
}

// FaultRule is what is to go wrong and where it was written.
type FaultRule struct {
	policy.Fault
	Source string
}

// Rule is a rule and where it was written.
type Rule struct {
	policy.Rule
	Source string // "box.yaml:5"; empty: nobody knows
}

// DNS is what the guest's resolver does with what it does not know.
type DNS struct {
	Servers []netip.AddrPort // asked; empty: see Mode
	Mode    DNSMode
	Hosts   []HostAddr
}

// DNSMode says who is asked. The zero DNSMode is not said.
type DNSMode uint8

// The modes.
const (
	DNSUnsaid  DNSMode = iota
	DNSHost            // the host's resolvers
	DNSNone            // nobody
	DNSServers         // Servers
)

// HostAddr is a name and one address of it.
type HostAddr struct {
	Name string // lower case, without the last dot
	Addr netip.Addr
}

// Settings are those of the preset, as far as the document does not replace
// them, and those of the document.
func (d Document) Settings() []knob.Setting {
	return overlay(Presets[d.Preset], d.TCP)
}

// overlay puts settings over others.
func overlay(under, over []knob.Setting) []knob.Setting {
	var all []knob.Setting
	for _, u := range under {
		replaced := false
		for _, o := range over {
			replaced = replaced || o.Key == u.Key && (o.Leg == 0 || o.Leg == u.Leg)
		}
		if !replaced {
			all = append(all, u)
		}
	}
	return append(all, over...)
}

// Amending is Over for an under that is in force: a parameter of the guest that d sets
// by a knob is no longer that of a sysctl of under.
func (d Document) Amending(under Document) Document {
	under.Sysctls = slices.DeleteFunc(slices.Clone(under.Sysctls), func(s knob.Sysctl) bool {
		return len(Conflicts(Document{Preset: d.Preset, TCP: d.TCP, Sysctls: []knob.Sysctl{s}})) > 0
	})
	return d.Over(under)
}

// Over returns the document that d laid over under makes: its rules stand in
// front, and its other values replace those of under one by one. A preset of d
// replaces under's.
func (d Document) Over(under Document) Document {
	out := under
	if d.Preset != "" {
		out.Preset = d.Preset
	}
	if d.Net != nil {
		out.Net = d.Net
	}
	out.Rules = append(append([]Rule(nil), d.Rules...), under.Rules...)
	out.TCP = overlay(under.TCP, d.TCP)
	out.Sysctls = nil
	for _, u := range under.Sysctls {
		replaced := false
		for _, o := range d.Sysctls {
			replaced = replaced || o.Name == u.Name
		}
		if !replaced {
			out.Sysctls = append(out.Sysctls, u)
		}
	}
	out.Sysctls = append(out.Sysctls, d.Sysctls...)
	for _, l := range []struct {
		to   *int
		over int
	}{
		{&out.Limits.Connections, d.Limits.Connections},
		{&out.Limits.UDPFlows, d.Limits.UDPFlows},
		{&out.Limits.Buffers, d.Limits.Buffers},
		{&out.Limits.LogRate, d.Limits.LogRate},
	} {
		if l.over != 0 {
			*l.to = l.over
		}
	}
	out.Faults = append(append([]FaultRule(nil), d.Faults...), under.Faults...)
	if d.DNS.Mode != DNSUnsaid {
		out.DNS.Mode, out.DNS.Servers = d.DNS.Mode, d.DNS.Servers
	}
	out.DNS.Hosts = append(append([]HostAddr(nil), d.DNS.Hosts...), under.DNS.Hosts...)
	return out
}
