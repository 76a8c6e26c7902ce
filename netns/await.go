package netns

import (
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long awaitLocal waits, and how often it asks.
const (
	awaitMost  = 10 * time.Second
	awaitEvery = 100 * time.Microsecond
)

// awaitLocal returns when the kernel takes packets to addr. For IPv6 it makes
// the local route in a work queue, some time after the address was added and
// also without duplicate address detection; packets that come before are lost,
// a SYN-ACK for example. fd is a netlink socket without requests in flight.
func awaitLocal(fd int, addr netip.Addr) error {
	if addr.Is4() {
		return nil
	}
	for deadline := time.Now().Add(awaitMost); ; time.Sleep(awaitEvery) {
		kind, err := routeType(fd, addr)
		switch {
		case err == nil && kind == unix.RTN_LOCAL:
			return nil
		case time.Now().After(deadline):
			if err == nil {
				err = fmt.Errorf("route type %d", kind)
			}
			return fmt.Errorf("netns: address %s is not usable after %v: %w", addr, awaitMost, err)
		}
	}
}

// routeType asks what the kernel would do with a packet to addr (RTN_LOCAL,
// RTN_UNICAST, …).
func routeType(fd int, addr netip.Addr) (byte, error) {
	var b batch
	start := b.begin("find the route to "+addr.String(), unix.RTM_GETROUTE, 0)
	native.PutUint16(b.buf[start+6:], unix.NLM_F_REQUEST) // the route is the answer
	// struct rtmsg
	b.buf = append(b.buf, family(addr), byte(addr.BitLen()), 0, 0, 0, 0, 0, 0)
	b.buf = native.AppendUint32(b.buf, 0)
	b.attr(unix.RTA_DST, addr.AsSlice())
	b.end(start)
	if err := unix.Sendto(fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 4<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return 0, err
		}
		for _, m := range msgs {
			switch {
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return 0, syscall.Errno(-int32(native.Uint32(m.Data)))
			case m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) >= unix.SizeofRtMsg:
				return m.Data[7], nil // rtm_type
			}
		}
	}
}
