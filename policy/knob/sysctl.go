package knob

import (
	"strconv"
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
// setting. The net.ipv4.tcp_ sysctls are of IPv4 and IPv6 both. The error, an
// *Error, says why the guest's leg cannot carry the setting.
func GuestSysctls(s Setting) ([]Sysctl, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	guest := lookup(s.Key).Guest
	switch {
	case s.Leg != 0 && s.Leg != tcpstate.Guest:
		return nil, &Error{Input: s.String(), Message: "it is for the " + s.Leg.String() + " leg", Hint: legsHint}
	case !guest.Carries:
		return nil, cannot(s, tcpstate.Guest, guest.Text)
	}
	if why := guest.outside(s); why != "" {
		return nil, cannot(s, tcpstate.Guest, why)
	}
	switch s.Key {
	case "time-wait.reuse":
		value := map[string]string{"off": "0", "on": "1", "loopback": "2"}[s.Word]
		return []Sysctl{{"net.ipv4.tcp_tw_reuse", value}}, nil
	case "fin-timeout":
		return []Sysctl{{"net.ipv4.tcp_fin_timeout", strconv.FormatInt(int64(s.Duration/time.Second), 10)}}, nil
	case "syn-backlog":
		return []Sysctl{{"net.ipv4.tcp_max_syn_backlog", strconv.Itoa(s.Int)}}, nil
	default:
		return nil, cannot(s, tcpstate.Guest, "no sysctl is known for it")
	}
}
