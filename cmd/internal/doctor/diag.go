package doctor

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// tryDiag asks sock_diag(7) for the TCP sockets of this network namespace, and
// to destroy one that does not exist.
func tryDiag() (dump, destroy error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err, err
	}
	defer unix.Close(fd)
	dump = ask(fd, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	destroy = ask(fd, unix.SOCK_DESTROY, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if is(destroy, unix.ENOENT) {
		destroy = nil // it looked
	}
	return dump, destroy
}

// ask sends an inet_diag_req_v2 (linux/inet_diag.h) for IPv4 and TCP, with all
// states and no address, and returns the errno of the answer.
func ask(fd int, typ, flags uint16) error {
	const header, request = unix.NLMSG_HDRLEN, 56
	order := binary.NativeEndian
	b := make([]byte, header+request)
	order.PutUint32(b[0:], uint32(len(b)))
	order.PutUint16(b[4:], typ)
	order.PutUint16(b[6:], flags)
	b[header] = unix.AF_INET
	b[header+1] = unix.IPPROTO_TCP
	order.PutUint32(b[header+4:], ^uint32(0)) // idiag_states
	for i := header + request - 8; i < len(b); i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		answer := make([]byte, 64<<10)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return unix.EBADMSG
		}
		for _, m := range messages {
			if m.Header.Type != unix.NLMSG_ERROR && m.Header.Type != unix.NLMSG_DONE {
				continue
			}
			if len(m.Data) < 4 {
				return unix.EBADMSG
			}
			if errno := -int32(order.Uint32(m.Data)); errno > 0 {
				return syscall.Errno(errno)
			}
			return nil
		}
	}
}
