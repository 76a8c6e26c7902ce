package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// Finder looks single connections up, in the network namespace that it was made
// in. That takes a few microseconds, however many sockets there are. Its methods
// may be called concurrently.
type Finder struct {
	mu     sync.Mutex
	fd     int // -1 after Close
	buffer [8 << 10]byte
}

// NewFinder returns a Finder for the namespace of the calling thread. Whoever calls
// it closes it.
func NewFinder() (*Finder, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sockdiag: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sockdiag: %w", err)
	}
	return &Finder{fd: fd}, nil
}

// FindTCP returns the connection between local and remote, TIME-WAIT included. ok
// is false if there is none.
func (f *Finder) FindTCP(local, remote netip.AddrPort) (s Socket, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return Socket{}, false, fmt.Errorf("sockdiag: find: %w", unix.EBADF)
	}
	if err := unix.Sendto(f.fd, findRequest(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Socket{}, false, fmt.Errorf("sockdiag: find: %w", err)
	}
	n, _, err := unix.Recvfrom(f.fd, f.buffer[:], 0)
	if err == nil {
		_, _, err = walk(f.buffer[:n], func(payload []byte) (err error) {
			s, err = parseSocket(payload, TCP)
			return err
		})
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return Socket{}, false, nil
	case err != nil:
		return Socket{}, false, fmt.Errorf("sockdiag: find %v to %v: %w", local, remote, err)
	}
	// Without a connection the kernel names the listener of its port.
	return s, s.State != tcpstate.Listen && s.State != tcpstate.Unknown, nil
}

// Close releases the Finder. It is safe to call twice.
func (f *Finder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return err
}

// noCookie asks for whatever socket has the addresses (INET_DIAG_NOCOOKIE).
const noCookie = ^uint64(0)

func findRequest(local, remote netip.AddrPort) []byte {
	family := Inet6
	if local.Addr().Unmap().Is4() {
		family = Inet4
	}
	b := request(byFamily, 0)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = byte(family), byte(TCP)
	native.PutUint32(r[4:], uint32(AllStates))
	putID(r[8:8+idLen], Socket{Family: family, Local: local, Remote: remote, Cookie: noCookie})
	return b
}
