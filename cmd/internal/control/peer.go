package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ownListener accepts connections of the same user, or of root, that do not
// come from inside a sandbox.
type ownListener struct {
	*net.UnixListener
	served uint64 // the network namespace that is served, or 0
	log    *slog.Logger

	refused int // so many connections; only Accept counts
}

// mostTold is after how many refused connections no more are told of: who is
// refused may go on as often as he likes.
const mostTold = 8

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := l.check(c); err != nil {
			l.tell(err)
			c.Close()
			continue
		}
		return c, nil
	}
}

// tell warns of a connection that was refused.
func (l *ownListener) tell(err error) {
	l.refused++
	switch {
	case l.refused < mostTold:
		l.log.Warn("control connection refused", "err", err)
	case l.refused == mostTold:
		l.log.Warn("control connection refused; no more are told of", "err", err)
	default:
		l.log.Debug("control connection refused", "err", err)
	}
}

// check looks at who is at the other end. What is in /proc under the peer's
// number is the peer only as long as it lives, so that is made sure of last.
func (l *ownListener) check(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr, pidErr error
	pidfd := -1
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		pidfd, pidErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if errors.Is(pidErr, unix.ENOPROTOOPT) { // before Linux 6.5
		pidfd, pidErr = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if pidErr != nil {
		return fmt.Errorf("peer %d cannot be looked at: %w", cred.Pid, pidErr)
	}
	defer unix.Close(pidfd)
	if int(cred.Uid) != os.Geteuid() && cred.Uid != 0 {
		return fmt.Errorf("peer has uid %d", cred.Uid)
	}
	if err := l.checkNamespaces(int(cred.Pid)); err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("peer %d has ended", cred.Pid)
	}
	return nil
}

// checkNamespaces keeps out who is inside a sandbox and has our uid. A guest is
// in another pid namespace. Who is inside an attached network namespace is in
// that, or can leave it only by a user namespace of its own, as whoever is in one
// already.
func (l *ownListener) checkNamespaces(pid int) error {
	for _, kind := range []string{"pid", "user"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return fmt.Errorf("peer %d cannot be looked at: %w", pid, err)
		}
		if ours != theirs {
			return fmt.Errorf("peer %d is in another %s namespace", pid, kind)
		}
	}
	if l.served == 0 {
		return nil
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("peer %d cannot be looked at: %w", pid, err)
	}
	if theirs == fmt.Sprintf("net:[%d]", l.served) {
		return fmt.Errorf("peer %d is inside the network namespace that is served", pid)
	}
	return nil
}
