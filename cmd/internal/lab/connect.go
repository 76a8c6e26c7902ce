package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each wait of the guest for its peer, which is in the same
// machine. Only what hangs meets it.
const patience = 20 * time.Second

// do makes the connections and counts what came of each. It calls the kernel
// itself: package net would try again, by its own count, after EADDRNOTAVAIL.
func (c *Connect) do(to netip.AddrPort) (Figures, error) {
	f := Figures{}
	for i := range c.Times {
		err := connectOnce(to, c)
		var failed *connectError
		switch {
		case err == nil:
			f["ok"]++
		case errors.As(err, &failed):
			f[errnoName(failed.errno)]++
			if f["first-failure"] == 0 {
				f["first-failure"] = i + 1
			}
		default:
			return f, fmt.Errorf("connection %d to %v: %w", i+1, to, err)
		}
	}
	return f, nil
}

// connectError says that connect(2) failed, which is a result and no fault.
type connectError struct{ errno unix.Errno }

func (e *connectError) Error() string { return "connect: " + e.errno.Error() }

func errnoName(e unix.Errno) string {
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}

// connectOnce makes one connection and ends it.
func connectOnce(to netip.AddrPort, c *Connect) (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil && closeErr != nil {
			err = fmt.Errorf("close: %w", closeErr)
		}
	}()
	if err := connect(fd, to); err != nil {
		return err
	}
	if err := write(fd, []byte(c.Say)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	switch c.Close {
	case ClientClose:
		return nil
	case ClientReset:
		// Onoff with a time of 0: close sends RST (tcp(7), socket(7)).
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	case ServerFirst:
		return readToEnd(fd)
	default:
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			return fmt.Errorf("shutdown: %w", err)
		}
		return readToEnd(fd)
	}
}

// connect connects a socket that does not block and waits for the outcome.
func connect(fd int, to netip.AddrPort) error {
	err := startConnect(fd, to)
	if errors.Is(err, unix.EINPROGRESS) {
		return finishConnect(fd, patience)
	}
	return err
}

// startConnect begins a connection: EINPROGRESS says that it has.
func startConnect(fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	var errno unix.Errno
	if errors.As(err, &errno) && errno != unix.EINPROGRESS {
		return &connectError{errno}
	}
	return err
}

// finishConnect waits for the outcome of what startConnect has begun: ETIMEDOUT
// says that there was none for so long.
func finishConnect(fd int, within time.Duration) error {
	if err := await(fd, unix.POLLOUT, within); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("getsockopt SO_ERROR: %w", err)
	}
	if code != 0 {
		return &connectError{unix.Errno(code)}
	}
	return nil
}

// ms is so many milliseconds.
func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// readToEnd reads until the peer's FIN.
func readToEnd(fd int) error {
	var buf [4096]byte
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLIN, patience); err != nil {
				return fmt.Errorf("read: %w", err)
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return nil
		}
	}
}

// await waits until the socket is ready for the events, or has failed: ETIMEDOUT
// says that it was not for so long.
func await(fd int, events int16, within time.Duration) error {
	end := time.Now().Add(within)
	for {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}
