// Package sockdiag reads the kernel's sockets of a network namespace, and ends
// them, over netlink (sock_diag(7)). It needs a way into the namespace and no
// privilege to look; to end a socket needs CAP_NET_ADMIN over the namespace.
//
// What a socket is to tcpbox is left to others. Begin with Dump.
package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// Proto is a transport protocol.
type Proto uint8

// The protocols.
const (
	TCP Proto = unix.IPPROTO_TCP
	UDP Proto = unix.IPPROTO_UDP
)

// Family is an address family.
type Family uint8

// The families. A socket of Inet6 may serve IPv4 too: see Socket.V6Only. The
// zero Family is both.
const (
	Inet4 Family = unix.AF_INET
	Inet6 Family = unix.AF_INET6
)

// TimerKind says which timer of a socket runs.
type TimerKind uint8

// The timers, in the kernel's numbers.
const (
	NoTimer TimerKind = iota
	Retransmit
	Keepalive
	TimeWaiting
	ZeroWindowProbe
)

// Timer is the timer of a socket that runs next.
type Timer struct {
	Kind    TimerKind
	Left    time.Duration // until it fires
	Retries uint8         // how often it has fired already
}

// Socket is what the kernel tells of one socket.
type Socket struct {
	Proto  Proto
	Family Family

	// State is that of TCP. A socket of UDP is ESTABLISHED if it is connected
	// and else CLOSED.
	State tcpstate.State

	Local, Remote netip.AddrPort // unspecified where there is none
	Interface     uint32         // that it is bound to; zero: none

	// RecvQueue and SendQueue are bytes that nobody has read, and that have not
	// been acknowledged. Of a listener they are connections that nobody has
	// accepted, and how many of them there may be.
	RecvQueue, SendQueue uint32

	UID    uint32
	Inode  uint32 // zero once no process has it
	Cookie uint64 // tells sockets apart, also those of one address after another
	Timer  Timer

	// V6Only is of a socket of Inet6 that listens or is not connected: it
	// serves no IPv4.
	V6Only bool
}

// States is a set of states.
type States uint32

// Every state there is.
const AllStates States = 1<<13 - 2

// Of returns the set of the states given.
func Of(states ...tcpstate.State) States {
	var set States
	for _, s := range states {
		for n, known := range stateByNumber {
			if known == s && s != tcpstate.Unknown {
				set |= 1 << n
			}
		}
	}
	return set
}

// stateByNumber are the kernel's numbers of states (net/tcp_states.h). The
// twelfth is a handshake that has no socket yet.
var stateByNumber = [...]tcpstate.State{
	1: tcpstate.Established, 2: tcpstate.SynSent, 3: tcpstate.SynReceived, 4: tcpstate.FinWait1, 5: tcpstate.FinWait2,
	6: tcpstate.TimeWait, 7: tcpstate.Closed, 8: tcpstate.CloseWait, 9: tcpstate.LastAck, 10: tcpstate.Listen,
	11: tcpstate.Closing, 12: tcpstate.SynReceived,
}

// Query says which sockets Dump is about.
type Query struct {
	Proto  Proto
	Family Family // zero means both, of TCP alone, at the price of one
	States States // zero means AllStates
}

// ErrChanged says that sockets came and went so fast during each of several
// dumps that some may be missing.
var ErrChanged = errors.New("the sockets changed while they were listed")

// dumps is how often a dump that was disturbed is made.
const dumps = 4

// Dump lists the sockets of ns that the queries are about, one query after the
// other. It opens one socket in ns and closes it again, so it pins the
// namespace only meanwhile. With ErrChanged it also returns what it has seen.
func Dump(ns netns.NS, queries ...Query) ([]Socket, error) {
	file, err := open(ns)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var all []Socket
	disturbed := false
	for _, q := range queries {
		if q.States == 0 {
			q.States = AllStates
		}
		sockets, changed, err := dumpWhole(file, q)
		if err != nil {
			return nil, fmt.Errorf("sockdiag: dump: %w", err)
		}
		all, disturbed = append(all, sockets...), disturbed || changed
	}
	if disturbed {
		return all, fmt.Errorf("sockdiag: dump: %w", ErrChanged)
	}
	return all, nil
}

// dumpWhole makes a dump again if it was disturbed, but not for ever.
func dumpWhole(file *os.File, q Query) (sockets []Socket, changed bool, err error) {
	for range dumps {
		if sockets, changed, err = dump(file, q); err != nil || !changed {
			break
		}
	}
	return sockets, changed, err
}

// Destroy ends a socket that Dump has found: a connection is reset, a listener
// closed, a TIME-WAIT ended. An error that matches syscall.ENOENT says that it
// was gone already.
func Destroy(ns netns.NS, s Socket) error {
	file, err := open(ns)
	if err != nil {
		return err
	}
	defer file.Close()
	return destroyOne(file, s)
}

func open(ns netns.NS) (*os.File, error) {
	file, err := ns.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sockdiag: %w", err)
	}
	return file, nil
}

func dump(file *os.File, q Query) (sockets []Socket, changed bool, err error) {
	if err := ask(file, dumpRequest(q)); err != nil {
		return nil, false, err
	}
	changed, err = receive(file, func(payload []byte) error {
		s, err := parseSocket(payload, q.Proto)
		if err == nil {
			sockets = append(sockets, s)
		}
		return err
	})
	return sockets, changed, err
}

func ask(file *os.File, request []byte) error {
	_, err := file.Write(request)
	return err
}

// answerTimeout bounds the kernel's answer, which is there at once.
const answerTimeout = 5 * time.Second

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// receive hands the payload of each message to take, until the answer ends.
// changed reports that the kernel saw its list change meanwhile.
func receive(file *os.File, take func([]byte) error) (changed bool, err error) {
	return receiveUntil(file, take, false)
}

// receiveOne is receive for an answer that is one message without an end.
func receiveOne(file *os.File, take func([]byte) error) (changed bool, err error) {
	return receiveUntil(file, take, true)
}

func receiveUntil(file *os.File, take func([]byte) error, one bool) (changed bool, err error) {
	if err := file.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return false, err
	}
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := file.Read(buf[:])
		if err != nil {
			return changed, err
		}
		done, disturbed, err := walk(buf[:n], take)
		changed = changed || disturbed
		if done || one || err != nil {
			return changed, err
		}
	}
}

// walk takes one datagram of the kernel's apart.
func walk(data []byte, take func([]byte) error) (done, changed bool, err error) {
	for len(data) >= unix.NLMSG_HDRLEN {
		length, typ, flags := header(data)
		if length < unix.NLMSG_HDRLEN || length > len(data) {
			return true, changed, errMalformed
		}
		payload := data[unix.NLMSG_HDRLEN:length]
		data = data[min(len(data), (length+3)&^3):]
		changed = changed || flags&unix.NLM_F_DUMP_INTR != 0
		switch typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true, changed, errorIn(payload)
		case byFamily, compatible:
			if err := take(payload); err != nil {
				return true, changed, err
			}
		}
	}
	return false, changed, nil
}

// errorIn is the errno that ends an answer, if it is not zero.
func errorIn(payload []byte) error {
	if len(payload) < 4 {
		return nil // a DONE without one
	}
	if n := -int32(native.Uint32(payload)); n > 0 {
		return syscall.Errno(n)
	}
	return nil
}
