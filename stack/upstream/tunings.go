package upstream

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
)

const lingerKey = "linger"

// option is a socket option and its value.
type option struct {
	level, name int
	title       string // such as "TCP_KEEPIDLE"
	since       string // the first kernel that has it; empty: all have
	value       int
	word        string // instead of value, of an option that is a name
	live        bool   // a connection that stands takes it
}

func (o option) set(fd int) error {
	if o.word != "" {
		return unix.SetsockoptString(fd, o.level, o.name, o.word)
	}
	return unix.SetsockoptInt(fd, o.level, o.name, o.value)
}

// swap sets the option on an open socket and returns what it was. A zero option
// does nothing.
func (o option) swap(raw syscall.RawConn) (before option, err error) {
	if o.title == "" {
		return o, nil
	}
	cerr := raw.Control(func(fd uintptr) {
		was := o
		if o.word != "" {
			was.word, err = unix.GetsockoptString(int(fd), o.level, o.name)
		} else {
			was.value, err = unix.GetsockoptInt(int(fd), o.level, o.name)
		}
		if err == nil {
			err = o.set(int(fd))
		}
		if err == nil {
			before = was
		}
	})
	return before, errors.Join(cerr, err)
}

// explain says why a socket does not take the option.
func (o option) explain(err error) string {
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Sprintf("this kernel has no %s (%s)", o.title, o.since)
	case errors.Is(err, unix.EPERM) && o.word != "":
		return fmt.Sprintf("the host's net.ipv4.tcp_allowed_congestion_control has %s, and another takes root", congestionControls("allowed"))
	}
	return fmt.Sprintf("%s: %v", o.title, err)
}

// tuning is what a host socket makes of one knob.
type tuning struct {
	options func(knob.Setting) []option
	text    func(knob.Setting) string

	// beyond says why this host does not take the value though its sockets take
	// the option; nil if that cannot be.
	beyond func(*Host, knob.Setting) string
}

// one is a knob that is one option, whose value text shows behind its title.
func one(o option, value func(knob.Setting) int, text func(knob.Setting) string) tuning {
	return tuning{
		options: func(s knob.Setting) []option {
			o := o
			o.value = value(s)
			return []option{o}
		},
		text: func(s knob.Setting) string { return o.title + " = " + text(s) },
	}
}

func seconds(s knob.Setting) int      { return int(s.Duration / time.Second) }
func milliseconds(s knob.Setting) int { return int(s.Duration.Milliseconds()) }
func number(s knob.Setting) int       { return s.Int }
func length(s knob.Setting) string    { return s.Duration.String() }
func count(s knob.Setting) string     { return fmt.Sprint(s.Int) }

// tunings are the knobs that a host socket carries, but for linger, which is not
// set before the end.
var tunings = map[string]tuning{
	"fin-timeout": one(option{level: unix.IPPROTO_TCP, name: unix.TCP_LINGER2, title: "TCP_LINGER2", live: true}, seconds,
		func(s knob.Setting) string { return fmt.Sprintf("%d s", seconds(s)) }),
	lingerKey: {
		options: func(knob.Setting) []option { return nil },
		text: func(s knob.Setting) string {
			if s.Word == "reset" {
				return "SO_LINGER = 0 s when the relay closes, and what was not acknowledged is lost"
			}
			return "the kernel delivers what is left"
		},
	},
	"keepalive": one(option{level: unix.SOL_SOCKET, name: unix.SO_KEEPALIVE, title: "SO_KEEPALIVE", live: true},
		func(s knob.Setting) int {
			if s.Word == "on" {
				return 1
			}
			return 0
		}, func(s knob.Setting) string { return s.Word }),
	"keepalive.idle":     one(option{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPIDLE, title: "TCP_KEEPIDLE", live: true}, seconds, length),
	"keepalive.interval": one(option{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPINTVL, title: "TCP_KEEPINTVL", live: true}, seconds, length),
	"keepalive.count":    one(option{level: unix.IPPROTO_TCP, name: unix.TCP_KEEPCNT, title: "TCP_KEEPCNT", live: true}, number, count),
	"user-timeout": one(option{level: unix.IPPROTO_TCP, name: unix.TCP_USER_TIMEOUT, title: "TCP_USER_TIMEOUT", live: true}, milliseconds,
		func(s knob.Setting) string {
			if s.Duration == 0 {
				return "never"
			}
			return s.Duration.String()
		}),
	"rto.min": one(option{level: unix.IPPROTO_TCP, name: unix.TCP_RTO_MIN_US, title: "TCP_RTO_MIN_US", since: "6.15", live: true},
		func(s knob.Setting) int { return int(s.Duration.Microseconds()) }, length),
	"rto.max": one(option{level: unix.IPPROTO_TCP, name: unix.TCP_RTO_MAX_MS, title: "TCP_RTO_MAX_MS", since: "6.15", live: true}, milliseconds, length),
	"mss":     one(option{level: unix.IPPROTO_TCP, name: unix.TCP_MAXSEG, title: "TCP_MAXSEG"}, number, count),
	"congestion-control": {
		options: func(s knob.Setting) []option {
			return []option{{level: unix.IPPROTO_TCP, name: unix.TCP_CONGESTION, title: "TCP_CONGESTION", word: s.Word, live: true}}
		},
		text:   func(s knob.Setting) string { return "TCP_CONGESTION = " + s.Word },
		beyond: noSuchAlgorithm,
	},
	"receive-buffer": buffer(option{level: unix.SOL_SOCKET, name: unix.SO_RCVBUF, title: "SO_RCVBUF"}, "net.core.rmem_max"),
	"send-buffer":    buffer(option{level: unix.SOL_SOCKET, name: unix.SO_SNDBUF, title: "SO_SNDBUF"}, "net.core.wmem_max"),
	"port-range": {
		options: func(s knob.Setting) []option {
			return []option{{level: unix.IPPROTO_IP, name: unix.IP_LOCAL_PORT_RANGE, title: "IP_LOCAL_PORT_RANGE", since: "6.3", value: s.Hi<<16 | s.Low}}
		},
		text:   func(s knob.Setting) string { return fmt.Sprintf("IP_LOCAL_PORT_RANGE = %d-%d", s.Low, s.Hi) },
		beyond: outsideRange,
	},
}

// buffer is a knob of memory. The kernel makes the double of what it is asked for,
// to have room for its own, and no more than the double of its limit, silently.
func buffer(o option, limit string) tuning {
	half := func(s knob.Setting) int { return (s.Hi + 1) / 2 }
	t := one(o, half, func(s knob.Setting) string {
		return fmt.Sprintf("%d bytes and as many for the kernel's own; auto-tuning is off with it", half(s))
	})
	t.beyond = func(h *Host, s knob.Setting) string {
		fd, err := h.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return "it cannot be tried: " + err.Error()
		}
		defer unix.Close(fd)
		o := t.options(s)[0]
		if err := o.set(fd); err != nil {
			return o.explain(err)
		}
		if got, err := unix.GetsockoptInt(fd, o.level, o.name); err != nil || got < s.Hi {
			return fmt.Sprintf("%s of the host allows %d bytes at most, of which it makes the double", limit, got/2)
		}
		return ""
	}
	return t
}

// noSuchAlgorithm looks the algorithm up rather than try it: root's trial would
// load a module into the host's kernel.
func noSuchAlgorithm(_ *Host, s knob.Setting) string {
	has := congestionControls("available")
	if slices.Contains(strings.Fields(has), s.Word) {
		return ""
	}
	return fmt.Sprintf("the host's kernel has %s loaded", has)
}

// congestionControls are those of net.ipv4.tcp_available_congestion_control or
// tcp_allowed_congestion_control. They are the same in each namespace.
func congestionControls(which string) string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_" + which + "_congestion_control")
	if err != nil {
		return "nothing that it tells of"
	}
	return strings.TrimSpace(string(b))
}

// outsideRange binds sockets to the loopback to learn whether the host's range has
// both ends of the setting's: the kernel leaves out what is outside of it, silently.
func outsideRange(h *Host, s knob.Setting) string {
	for _, port := range []int{s.Low, s.Hi} {
		got, err := h.boundWithin(port)
		switch {
		case errors.Is(err, unix.EADDRINUSE): // it is in the range, and somebody has it
		case errors.Is(err, unix.ENOPROTOOPT):
			return "this kernel has no IP_LOCAL_PORT_RANGE (6.3)"
		case err != nil:
			return "it cannot be tried: " + err.Error()
		case got != port:
			return fmt.Sprintf("port %d is outside net.ipv4.ip_local_port_range of the host", port)
		}
	}
	return ""
}

// boundWithin binds a socket that asks for one port as its range.
func (h *Host) boundWithin(port int) (got int, err error) {
	fd, err := h.socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	return int(addrPort(name).Port()), nil
}
