package knob

import (
	"strconv"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// Sysctl is one sysctl of a network namespace and the value to write.
type Sysctl struct {
	Name  string // dotted: "net.ipv4.tcp_fin_timeout"
	Value string
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
		return []Sysctl{{name, strconv.FormatInt(int64(s.Duration/time.Second), 10)}}
	}
}

func milliseconds(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl {
		return []Sysctl{{name, strconv.FormatInt(s.Duration.Milliseconds(), 10)}}
	}
}

func number(name string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl { return []Sysctl{{name, strconv.Itoa(s.Int)}} }
}

// words writes for a word what the map has.
func words(name string, values map[string]string) func(Setting) []Sysctl {
	return func(s Setting) []Sysctl { return []Sysctl{{name, values[s.Word]}} }
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
