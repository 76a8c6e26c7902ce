package knob

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// Sysctl is one sysctl of a network namespace and the value to write.
type Sysctl struct {
	Name  string // dotted: "net.ipv4.tcp_fin_timeout"
	Value string

	Source string // who wrote it, as Setting.Source; empty: not said
}

// String returns "net.ipv4.tcp_fin_timeout = 5".
func (s Sysctl) String() string { return s.Name + " = " + s.Value }

// GuestSysctls returns what to write into the guest's network namespace for a
// setting; nothing, if its leg carries it by other means. The net.ipv4.tcp_
// sysctls are of IPv4 and IPv6 both. The error, an *Error, says why the guest's
// leg cannot carry the setting.
func GuestSysctls(s Setting) ([]Sysctl, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	d := lookup(s.Key)
	switch {
	case s.Leg != 0 && s.Leg != tcpstate.Guest:
		return nil, &Error{Input: s.String(), Message: "it is for the " + s.Leg.String() + " leg", Hint: legsHint}
	case !d.Guest.Carries:
		return nil, cannot(s, tcpstate.Guest, d.Guest.Text)
	}
	if why := d.Guest.outside(s); why != "" {
		return nil, cannot(s, tcpstate.Guest, why)
	}
	if d.sysctls == nil {
		return nil, nil
	}
	return d.sysctls(s), nil
}

// GuestDefaults are the sysctls that make the defaults of the table true in a
// guest's namespace, for a new one copies some of the host's. A kernel need not
// offer all of them.
func GuestDefaults() []Sysctl {
	var sysctls []Sysctl
	for i := range table {
		d := &table[i]
		if d.sysctls == nil || d.Default == "" {
			continue
		}
		s := Setting{Key: d.Key, Leg: tcpstate.Guest}
		if d.parse(&s, d.Default) == "" && d.Guest.outside(s) == "" {
			sysctls = append(sysctls, d.sysctls(s)...)
		}
	}
	return sysctls
}

// Of the forms of value that sysctls have, those that several knobs share.

func seconds(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl {
		return []Sysctl{{Name: name, Value: strconv.FormatInt(int64(s.Duration/time.Second), 10)}}
	}
}

func milliseconds(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl {
		return []Sysctl{{Name: name, Value: strconv.FormatInt(s.Duration.Milliseconds(), 10)}}
	}
}

func number(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl { return []Sysctl{{Name: name, Value: strconv.Itoa(s.Int)}} }
}

// words writes for a word what the map has.
func words(name string, values map[string]string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl { return []Sysctl{{Name: name, Value: values[s.Word]}} }
}

// onOff are the values of the sysctls that are switches.
var onOff = map[string]string{"off": "0", "on": "1"}

// OfSysctl returns the knob that the guest's leg carries by the sysctl of that
// name: "net.ipv4.tcp_fin_timeout", or "tcp_fin_timeout".
func OfSysctl(name string) (Def, bool) {
	for i := range table {
		d := &table[i]
		if d.sysctls == nil {
			continue
		}
		s := Setting{Key: d.Key, Leg: tcpstate.Guest}
		if d.parse(&s, d.Example()) != "" {
			continue
		}
		for _, sysctl := range d.sysctls(s) {
			if sysctl.Name == name || strings.HasSuffix(sysctl.Name, "."+name) {
				return Lookup(d.Key)
			}
		}
	}
	return Def{}, false
}

// Knob returns the setting of the guest's leg that the sysctl is another way to write.
// There is none for a sysctl of no knob, and for a value that the knob has not.
func (sc Sysctl) Knob() (Setting, bool) {
	d, ok := OfSysctl(sc.Name)
	if !ok {
		return Setting{}, false
	}
	fields := strings.Fields(sc.Value)
	for _, value := range d.spellings(fields) {
		s := Setting{Key: d.Key, Leg: tcpstate.Guest}
		if d.parse(&s, value) != "" || d.Guest.outside(s) != "" {
			continue
		}
		for _, written := range d.sysctls(s) {
			if written.Name == sc.Name && slices.Equal(strings.Fields(written.Value), fields) {
				s.Source = sc.Source
				return s, true
			}
		}
	}
	return Setting{}, false
}

// spellings are values of the knob among which is the one that a sysctl with these
// fields stands for, if there is one.
func (d Def) spellings(fields []string) []string {
	value, last := strings.Join(fields, ","), ""
	if len(fields) > 0 {
		last = fields[len(fields)-1]
	}
	switch d.Type {
	case Word:
		return d.Words
	case Duration:
		return []string{value + "s", value + "ms", value + "us"}
	case Range, SizeRange:
		if len(fields) < 2 {
			return nil
		}
		return []string{fields[len(fields)-2] + "-" + last}
	case Ports:
		if len(fields) == 0 {
			return []string{"none"}
		}
	}
	return []string{value}
}
