package upstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Addresses knows which addresses are the host's own. It keeps no list: each
// question goes to the kernel's routing decision (rtnetlink(7), RTM_GETROUTE),
// which is the one that a connection would meet, and takes about 10 µs. So an address counts from the
// moment it is added, and so do those that no interface shows: all of
// 127.0.0.0/8, routes of type local, broadcast and anycast addresses.
type Addresses struct {
	failures atomic.Uint64

	mu       sync.Mutex
	file     *os.File // nil after Close
	sequence uint32
	request  [requestLen]byte
	reply    [4096]byte
}

const (
	requestLen = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 16

	// answerTime bounds the wait for an answer that the kernel has normally
	// given before the question returns.
	answerTime = time.Second
)

// NewAddresses returns the Addresses of the network namespace that socket
// makes its sockets in; nil means that of the calling thread. It needs no
// privilege. Whoever calls it closes it.
func NewAddresses(socket Socket) (*Addresses, error) {
	if socket == nil {
		socket = unix.Socket
	}
	fd, err := socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("upstream: open rtnetlink: %w", shortage(err))
	}
	timeout := unix.NsecToTimeval(int64(answerTime))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // the kernel, and nobody else
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("upstream: open rtnetlink: %w", err)
	}
	a := &Addresses{file: os.NewFile(uintptr(fd), "rtnetlink")}
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		// Later EINVAL means a blackhole route, so the kernel must be known to
		// understand the question.
		if _, err := a.ask(addr); err != nil {
			a.Close()
			return nil, fmt.Errorf("upstream: ask rtnetlink for the route to %v: %w", addr, err)
		}
	}
	return a, nil
}

// Owns reports whether addr is the host's: whether what is sent there stays on
// the host. The unspecified addresses are, for a connection to them ends at
// the loopback. When the kernel cannot be asked, which Failures counts, and
// after Close, every address is.
func (a *Addresses) Owns(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsLoopback() {
		return true
	}
	owns, err := a.ask(addr)
	if err != nil && err != unix.EINVAL {
		a.failures.Add(1)
		return true
	}
	return owns
}

// Failures returns how many questions the kernel has not answered.
func (a *Addresses) Failures() uint64 { return a.failures.Load() }

// Close releases the socket. It does nothing the second time.
func (a *Addresses) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}

// ask asks the kernel for the route to addr. An IPv6 address that is new has
// none before it is known to be no duplicate (RFC 4862, section 5.4), so those
// are looked up among the addresses as well.
func (a *Addresses) ask(addr netip.Addr) (owned bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	owned, err = a.askLocked(unix.RTM_GETROUTE, addr)
	if !owned && addr.Is6() && (err == nil || err == unix.EINVAL) {
		if owned, err := a.askLocked(unix.RTM_GETADDR, addr); owned || err != nil {
			return owned, err
		}
	}
	return owned, err
}

func (a *Addresses) askLocked(kind uint16, addr netip.Addr) (owned bool, err error) {
	if a.file == nil {
		return false, os.ErrClosed
	}
	a.sequence++
	request := question(a.request[:0], kind, a.sequence, addr)
	fd := int(a.file.Fd())
	if _, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, request) }); err != nil {
		return false, err
	}
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, a.reply[:]) })
		if err != nil {
			return false, err
		}
		owned, err := parseAnswer(a.reply[:n], a.sequence)
		if err != errOtherAnswer { // that would be to a question given up before
			return owned, err
		}
	}
}

// question appends an RTM_GETROUTE or RTM_GETADDR message for addr to b. The
// two differ in the header between the netlink header and the address.
func question(b []byte, kind uint16, sequence uint32, addr netip.Addr) []byte {
	family, ip := byte(unix.AF_INET), addr.AsSlice()
	if addr.Is6() {
		family = unix.AF_INET6
	}
	header, attribute := unix.SizeofRtMsg, uint16(unix.RTA_DST)
	if kind == unix.RTM_GETADDR {
		header, attribute = unix.SizeofIfAddrmsg, unix.IFA_ADDRESS
	}
	size := unix.SizeofNlMsghdr + header + unix.SizeofRtAttr + len(ip)
	b = binary.NativeEndian.AppendUint32(b, uint32(size))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel fills it in
	b = append(b, family, byte(8*len(ip)))     // and the length of the prefix
	b = append(b, make([]byte, header-2)...)
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(ip)))
	b = binary.NativeEndian.AppendUint16(b, attribute)
	return append(b, ip...)
}

var (
	errOtherAnswer = errors.New("upstream: answer to another question")
	errBadAnswer   = errors.New("upstream: malformed answer of rtnetlink")
)

// parseAnswer judges the answer to the question with the given sequence
// number: a route that stays on the host, or an address, is the host's. That
// there is none, or a route that refuses, is an answer too; but a blackhole
// route is EINVAL, as a bad question is.
func parseAnswer(b []byte, sequence uint32) (owned bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := binary.NativeEndian.Uint32(b)
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return false, errBadAnswer
		}
		body := b[unix.SizeofNlMsghdr:size]
		if binary.NativeEndian.Uint32(b[8:]) != sequence {
			b = b[min(len(b), int(size+3)&^3):]
			continue
		}
		switch {
		case kind == unix.RTM_NEWROUTE && len(body) >= unix.SizeofRtMsg:
			return staysHere(body[7]), nil // rtm_type
		case kind == unix.RTM_NEWADDR && len(body) >= unix.SizeofIfAddrmsg:
			return true, nil
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno {
			case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES: // no route, or unreachable, prohibit
				return false, nil
			case unix.EADDRNOTAVAIL: // no such address
				return false, nil
			case unix.EAFNOSUPPORT, unix.EOPNOTSUPP: // no IPv6 at all
				return false, nil
			default:
				return false, errno
			}
		}
		return false, errBadAnswer
	}
	return false, errOtherAnswer
}

// staysHere reports whether packets by a route of that type stay on the host.
func staysHere(routeType byte) bool {
	switch routeType {
	case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return true
	}
	return false
}
