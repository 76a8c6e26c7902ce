package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/stack/tcpstate"
)

// EndTimeWaits ends those of the connections that are in TIME-WAIT, and touches no
// other: a connection that has the addresses of one since is left alone. ended has
// a place for each pair, also where it returns an error, which is why those from
// some place on were not tried. It opens one socket in ns and closes it again.
func EndTimeWaits(ns netns.NS, pairs []Pair) (ended []bool, err error) {
	ended = make([]bool, len(pairs))
	file, err := open(ns)
	if err != nil {
		return ended, err
	}
	defer file.Close()
	for i, p := range pairs {
		s, found, err := lookUp(file, p)
		if err == nil && found && s.State == tcpstate.TimeWait {
			err = destroyOne(file, s)
			ended[i] = err == nil
		}
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return ended, fmt.Errorf("sockdiag: end the TIME-WAIT of %v: %w", p.Local, err)
		}
	}
	return ended, nil
}

// CanDestroy says why this kernel ends no sockets on request, nil if it does. It
// asks, in the namespace of the calling thread, for the end of one that there is
// not.
func CanDestroy() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return fmt.Errorf("sockdiag: %w", err)
	}
	file := os.NewFile(uintptr(fd), "sock_diag")
	defer file.Close()
	nowhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	err = destroyOne(file, Socket{Proto: TCP, Family: Inet4, Local: nowhere, Remote: nowhere, Cookie: 1})
	switch {
	case errors.Is(err, syscall.ENOENT), err == nil:
		return nil
	case errors.Is(err, syscall.EOPNOTSUPP):
		return errors.New("this kernel was built without INET_DIAG_DESTROY")
	}
	return err
}

func destroyOne(file *os.File, s Socket) error {
	if err := ask(file, destroyRequest(s)); err != nil {
		return fmt.Errorf("sockdiag: destroy: %w", err)
	}
	if _, err := receive(file, func([]byte) error { return nil }); err != nil {
		return fmt.Errorf("sockdiag: destroy %v: %w", s.Local, err)
	}
	return nil
}

// lookUp looks one connection up.
func lookUp(file *os.File, p Pair) (s Socket, found bool, err error) {
	if err := ask(file, findRequest(p.Local, p.Remote)); err != nil {
		return Socket{}, false, fmt.Errorf("sockdiag: find: %w", err)
	}
	_, err = receiveOne(file, func(payload []byte) error {
		var err error
		s, err = parseSocket(payload, TCP)
		// Where there is no connection the kernel answers with who listens.
		found = err == nil && s.State != tcpstate.Listen && s.State != tcpstate.Unknown
		return err
	})
	if errors.Is(err, syscall.ENOENT) {
		return Socket{}, false, nil
	}
	if err != nil {
		return Socket{}, false, fmt.Errorf("sockdiag: find %v: %w", p.Local, err)
	}
	return s, found, nil
}
