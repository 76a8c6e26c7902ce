package document

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// String prints the document as YAML in one form: sections in a fixed order,
// without what is not said. Parse turns it into the same Document again, but for
// where things were written.
func (d Document) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: %d\n", Version)
	if d.Preset != "" {
		fmt.Fprintf(&b, "preset: %s\n", d.Preset)
	}
	if d.Net != nil {
		fmt.Fprintf(&b, "net: %v\n", *d.Net)
	}
	if len(d.Rules) > 0 {
		b.WriteString("rules:\n")
		for _, r := range d.Rules {
			fmt.Fprintf(&b, "  - %s\n", scalarOf(r.String()))
		}
	}
	if len(d.TCP) > 0 {
		b.WriteString("tcp:\n")
		for _, s := range d.TCP {
			fmt.Fprintf(&b, "  %s: %s\n", s.Name(), scalarOf(s.Value()))
		}
	}
	if len(d.Sysctls) > 0 {
		b.WriteString("sysctl:\n")
		for _, s := range d.Sysctls {
			fmt.Fprintf(&b, "  %s: %s\n", scalarOf(s.Name), scalarOf(s.Value))
		}
	}
	if d.Limits != (Limits{}) {
		b.WriteString("limits:\n")
		for _, l := range LimitKeys {
			if n := *l.field(&d.Limits); n != 0 {
				fmt.Fprintf(&b, "  %s: %s\n", l.Name, l.text(n))
			}
		}
	}
	d.DNS.print(&b)
	if len(d.Faults) > 0 {
		b.WriteString("faults:\n")
		for _, f := range d.Faults {
			fmt.Fprintf(&b, "  - %s\n", scalarOf(f.String()))
		}
	}
	return b.String()
}

func (d DNS) print(b *strings.Builder) {
	if d.Mode == DNSUnsaid && len(d.Hosts) == 0 {
		return
	}
	b.WriteString("dns:\n")
	switch d.Mode {
	case DNSHost:
		b.WriteString("  servers: host\n")
	case DNSNone:
		b.WriteString("  servers: none\n")
	case DNSServers:
		b.WriteString("  servers:\n")
		for _, s := range d.Servers {
			fmt.Fprintf(b, "    - %s\n", scalarOf(serverText(s)))
		}
	}
	if len(d.Hosts) > 0 {
		b.WriteString("  hosts:\n")
		for _, h := range d.byName() {
			fmt.Fprintf(b, "    %s:\n", scalarOf(h.name))
			for _, a := range h.addrs {
				fmt.Fprintf(b, "      - %s\n", scalarOf(a))
			}
		}
	}
}

func serverText(s netip.AddrPort) string {
	if s.Port() == resolverPort {
		return s.Addr().String()
	}
	return s.String()
}

type hostAddrs struct {
	name  string
	addrs []string
}

// byName gathers the addresses of each name, in the order of the names.
func (d DNS) byName() []hostAddrs {
	var all []hostAddrs
next:
	for _, h := range d.Hosts {
		for i := range all {
			if all[i].name == h.Name {
				all[i].addrs = append(all[i].addrs, h.Addr.String())
				continue next
			}
		}
		all = append(all, hostAddrs{h.Name, []string{h.Addr.String()}})
	}
	return all
}

// plain is what needs no quotes in YAML, and stays what it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9/._ -]*$`)

// scalarOf writes a value, in quotes if it needs them. JSON's are YAML's too.
func scalarOf(text string) string {
	if plain.MatchString(text) && !strings.HasSuffix(text, " ") && !ambiguous[strings.ToLower(text)] {
		return text
	}
	return quoted(text)
}

// ambiguous are words that YAML takes for nothing.
var ambiguous = map[string]bool{"null": true, "nan": true, ".nan": true}

func quoted(text string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(text) // a string has no fault
	return strings.TrimSuffix(b.String(), "\n")
}

// MarshalJSON prints the document as JSON, with the same keys.
func (d Document) MarshalJSON() ([]byte, error) {
	out := struct {
		Version int            `json:"version"`
		Preset  string         `json:"preset,omitempty"`
		Net     string         `json:"net,omitempty"`
		Rules   []string       `json:"rules,omitempty"`
		TCP     ordered        `json:"tcp,omitempty"`
		Sysctl  ordered        `json:"sysctl,omitempty"`
		Limits  map[string]int `json:"limits,omitempty"`
		DNS     map[string]any `json:"dns,omitempty"`
		Faults  []string       `json:"faults,omitempty"`
	}{Version: Version, Preset: d.Preset}
	if d.Net != nil {
		out.Net = d.Net.String()
	}
	for _, r := range d.Rules {
		out.Rules = append(out.Rules, r.String())
	}
	for _, s := range d.TCP {
		out.TCP = append(out.TCP, pair{s.Name(), s.Value()})
	}
	for _, s := range d.Sysctls {
		out.Sysctl = append(out.Sysctl, pair{s.Name, s.Value})
	}
	for _, l := range LimitKeys {
		if n := *l.field(&d.Limits); n != 0 {
			if out.Limits == nil {
				out.Limits = map[string]int{}
			}
			out.Limits[l.Name] = n
		}
	}
	out.DNS = d.DNS.json()
	for _, f := range d.Faults {
		out.Faults = append(out.Faults, f.String())
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON prints, and all that Parse reads of JSON.
func (d *Document) UnmarshalJSON(data []byte) error {
	parsed, err := Parse("", data)
	if err == nil {
		*d = parsed
	}
	return err
}

func (d DNS) json() map[string]any {
	out := map[string]any{}
	switch d.Mode {
	case DNSHost:
		out["servers"] = "host"
	case DNSNone:
		out["servers"] = "none"
	case DNSServers:
		var servers []string
		for _, s := range d.Servers {
			servers = append(servers, serverText(s))
		}
		out["servers"] = servers
	}
	if len(d.Hosts) > 0 {
		var hosts ordered
		for _, h := range d.byName() {
			hosts = append(hosts, pair{h.name, h.addrs})
		}
		out["hosts"] = hosts
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// ordered is a JSON object whose keys stay in their order.
type ordered []pair

type pair struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, p := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(p.value)
		if err != nil {
			return nil, err
		}
		b.WriteString(quoted(p.key) + ":")
		b.Write(value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}
