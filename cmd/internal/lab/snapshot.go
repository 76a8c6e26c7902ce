package lab

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// What a lab counts, beside the figures of its steps. The names are:
//
//	guest.STATE               sockets in a state in the guest's kernel, by sock_diag(7)
//	guest.STATE.PROGRAM       those of a program of the guest, by the state log; the
//	                          first program is called "first"
//	stack.STATE               endpoints of the stack in a state, by the state log
//	entered.LEG.STATE         how often a leg has entered a state, by the state log
//	entered.LEG               how many states it has entered
//	timer.STATE               what is left on the timer of the socket in a state that
//	                          has the most left, in milliseconds
//	unread.STATE              bytes that have arrived at sockets in a state, and that
//	                          nobody has read
//	unsent.STATE              bytes that are not acknowledged
//	queue.PORT                connections that wait to be accepted
//	sent.LEG.FLAGS            segments that a leg has sent: SYN, SYN-ACK, FIN and RST with
//	                          or without ACK, and ACK without anything else
//	Tcp…, TcpExt…, Ip…        the kernel's counters, by the names of nstat(8)
//	upstream.STATE            sockets in a state that the stack has made on the host, by
//	                          sock_diag(7), in labs that are OnHost
//	no-port                   SYNs that were dropped because the host had no port left:
//	                          no_port of tcpbox stat
//
// A state is written in small letters, as "close-wait".

// checkCount reports what is wrong with the name of something that is to be
// counted.
func checkCount(name string) error {
	if slices.Contains(counts, name) || isCounter(name) || name == noPort {
		return nil
	}
	kind, rest, _ := strings.Cut(name, ".")
	switch kind {
	case "guest", "stack", "upstream", "timer", "unread", "unsent":
		state, program, owned := strings.Cut(rest, ".")
		if _, err := tcpstate.Parse(strings.ToUpper(state)); err != nil || owned && (kind != "guest" || program == "") {
			return fmt.Errorf("nothing counts %q: there is no state %q", name, state)
		}
		return nil
	case "entered":
		if _, _, err := enteredOf(rest); err != nil {
			return fmt.Errorf("nothing counts %q; for example: entered.guest.closing", name)
		}
		return nil
	case "queue":
		if _, err := portOf(":" + rest); err != nil {
			return fmt.Errorf("nothing counts %q: %w", name, err)
		}
		return nil
	case "sent":
		leg, flags, _ := strings.Cut(rest, ".")
		if segments[flags] == nil || leg != "guest" && leg != "stack" {
			return fmt.Errorf("nothing counts %q; for example: sent.guest.SYN-ACK", name)
		}
		return nil
	}
	return fmt.Errorf("nothing counts %q", name)
}

// isCounter reports whether a name is one of nstat's.
func isCounter(name string) bool {
	return strings.HasPrefix(name, "Tcp") || strings.HasPrefix(name, "Ip")
}

// enteredOf reads LEG.STATE, or LEG.
func enteredOf(text string) (leg tcpstate.Leg, state tcpstate.State, err error) {
	end, name, has := strings.Cut(text, ".")
	leg, ok := legOf(end)
	if !ok {
		return 0, 0, fmt.Errorf("there is no leg %q", end)
	}
	if has {
		state, err = tcpstate.Parse(strings.ToUpper(name))
	}
	return leg, state, err
}

// control are the flags that tell segments apart.
const control = packet.FIN | packet.SYN | packet.RST | packet.ACK

// segments are the kinds of segments, by their names.
var segments = map[string]func(f packet.Flags) bool{
	"SYN":     func(f packet.Flags) bool { return f&control == packet.SYN },
	"SYN-ACK": func(f packet.Flags) bool { return f&control == packet.SYN|packet.ACK },
	"FIN":     func(f packet.Flags) bool { return f&packet.FIN != 0 },
	"RST":     func(f packet.Flags) bool { return f&packet.RST != 0 },
	"ACK":     func(f packet.Flags) bool { return f&control == packet.ACK },
}

// snapshot counts in a sandbox. What it has read once it does not read again.
type snapshot struct {
	s        *sandbox
	counters map[string]int
	sockets  []sockdiag.Socket
	dumped   bool
}

// count returns the figure of that name.
func (n *snapshot) count(name string) (int, error) {
	switch name {
	case synRetransmits:
		name = "TcpExtTCPSynRetrans"
	case timeWaitOverflow:
		name = "TcpExtTCPTimeWaitOverflow"
	case noPort:
		return int(n.s.box.Stats().NoPort), nil
	case stackTimeWait:
		_, waiting := n.s.stack.count()
		return waiting, nil
	}
	if isCounter(name) {
		return n.counter(name)
	}
	kind, rest, _ := strings.Cut(name, ".")
	switch kind {
	case "queue":
		return n.queue(rest)
	case "entered":
		leg, state, err := enteredOf(rest)
		return n.s.stack.enteredBy(leg, state), err
	case "sent":
		leg, flags, _ := strings.Cut(rest, ".")
		return n.sent(leg, flags)
	}
	text, program, owned := strings.Cut(rest, ".")
	state, err := tcpstate.Parse(strings.ToUpper(text))
	if err != nil {
		return 0, err
	}
	switch {
	case kind == "upstream":
		return n.s.host.dialled(state)
	case kind == "stack":
		return n.s.stack.in(tcpstate.Stack, state, 0), nil
	case owned:
		pid := n.s.pid(program)
		if pid == 0 {
			return 0, nil // it does not run, and so has no sockets
		}
		return n.s.stack.in(tcpstate.Guest, state, pid), nil
	}
	if err := n.dump(); err != nil {
		return 0, err
	}
	f := Figures{}
	for i := range n.sockets {
		if s := &n.sockets[i]; s.State == state {
			f["guest"]++
			f["timer"] = max(f["timer"], int(s.Timer.Left.Milliseconds()))
			f["unread"] += int(s.RecvQueue)
			f["unsent"] += int(s.SendQueue)
		}
	}
	return f[kind], nil
}

// counter is one of the kernel's. One that this kernel does not have is an error:
// it would be zero for ever.
func (n *snapshot) counter(name string) (int, error) {
	if n.counters == nil {
		n.counters = make(map[string]int)
		for _, file := range []string{"netstat", "snmp"} {
			text, err := n.s.box.NS().ProcNet(file)
			if err != nil {
				return 0, err
			}
			mib, err := parseNetstat(text)
			if err != nil {
				return 0, err
			}
			for name, v := range mib {
				n.counters[name] = v
			}
		}
	}
	v, ok := n.counters[name]
	if !ok {
		return 0, &missingError{name}
	}
	return v, nil
}

func (n *snapshot) dump() error {
	if n.dumped {
		return nil
	}
	sockets, err := sockdiag.Dump(n.s.box.NS(), sockdiag.Query{Proto: sockdiag.TCP, Family: sockdiag.Inet4, States: sockdiag.AllStates})
	if err != nil && !errors.Is(err, sockdiag.ErrChanged) {
		return err
	}
	n.sockets, n.dumped = sockets, true
	return nil
}

// queue is how many connections wait at a listener.
func (n *snapshot) queue(port string) (int, error) {
	if err := n.dump(); err != nil {
		return 0, err
	}
	for i := range n.sockets {
		if s := &n.sockets[i]; s.State == tcpstate.Listen && strconv.Itoa(int(s.Local.Port())) == port {
			return int(s.RecvQueue), nil
		}
	}
	return 0, fmt.Errorf("nobody listens on port %s", port)
}

// sent counts segments by the headers that are kept.
func (n *snapshot) sent(leg, kind string) (total int, err error) {
	for _, conn := range n.s.stack.conns() {
		_, sent, err := n.s.box.Segments(conn)
		if err != nil {
			return 0, err
		}
		for i := range sent {
			s := &sent[i]
			if s.Sender.String() == leg && segments[kind](packet.Flags(s.Header[13])) && (kind != "ACK" || s.Payload == 0) {
				total++
			}
		}
	}
	return total, nil
}

// listens reports whether somebody listens on the port.
func (n *snapshot) listens(port int) bool {
	for i := range n.sockets {
		if s := &n.sockets[i]; s.State == tcpstate.Listen && int(s.Local.Port()) == port {
			return true
		}
	}
	return false
}
