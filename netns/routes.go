package netns

import (
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultRoutes lists the default routes that lead anywhere in the namespace of
// a netlink socket, as "IPv4" or "IPv6 via ADDRESS".
func defaultRoutes(fd int) ([]string, error) {
	var found []string
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		var b batch
		start := b.begin("list routes", unix.RTM_GETROUTE, 0)
		native.PutUint16(b.buf[start+6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
		b.buf = append(b.buf, f, 0, 0, 0, 0, 0, 0, 0) // struct rtmsg
		b.buf = native.AppendUint32(b.buf, 0)
		b.end(start)
		if err := unix.Sendto(fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return nil, fmt.Errorf("netns: list routes: %w", err)
		}
		err := eachMessage(fd, func(m *syscall.NetlinkMessage) {
			if text, ok := defaultRoute(m); ok {
				found = append(found, text)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("netns: list routes: %w", err)
		}
	}
	return found, nil
}

// eachMessage takes in the answer to a dump.
func eachMessage(fd int, take func(*syscall.NetlinkMessage)) error {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for i := range msgs {
			switch m := &msgs[i]; m.Header.Type {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return unix.EBADMSG
				}
				if errno := syscall.Errno(-int32(native.Uint32(m.Data))); errno != unix.EOPNOTSUPP {
					return errno
				}
				return nil // a kernel without the family
			default:
				take(m)
			}
		}
	}
}

// defaultRoute reports whether a message is of a route to everywhere that leads
// somewhere, and describes it.
func defaultRoute(m *syscall.NetlinkMessage) (text string, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return "", false
	}
	// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type
	if m.Data[1] != 0 || m.Data[7] != unix.RTN_UNICAST {
		return "", false
	}
	text = "IPv4"
	if m.Data[0] == unix.AF_INET6 {
		text = "IPv6"
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return text, true
	}
	for _, a := range attrs {
		if a.Attr.Type != unix.RTA_GATEWAY {
			continue
		}
		if via, ok := netip.AddrFromSlice(a.Value); ok {
			text += " via " + via.String()
		}
	}
	return text, true
}
