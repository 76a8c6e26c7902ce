package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// batch collects rtnetlink requests (rtnetlink(7)) that go to the kernel in
// one message. Each asks for an acknowledgement; its sequence number is its
// place in the batch, from 1.
type batch struct {
	buf   []byte
	names []string // what each request does, for errors
}

var native = binary.NativeEndian

// begin appends a request's header and returns where it starts.
func (b *batch) begin(what string, typ, flags uint16) int {
	start := len(b.buf)
	b.names = append(b.names, what)
	b.buf = native.AppendUint32(b.buf, 0) // length, filled by end
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = native.AppendUint16(b.buf, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b.buf = native.AppendUint32(b.buf, uint32(len(b.names)))
	b.buf = native.AppendUint32(b.buf, 0) // port: the kernel
	return start
}

func (b *batch) end(start int) {
	native.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) attr(typ uint16, value []byte) {
	b.buf = native.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(value)))
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, value...)
	for len(b.buf)%unix.RTA_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) attr32(typ uint16, v uint32) {
	b.attr(typ, native.AppendUint32(nil, v))
}

// linkUp sets an interface up, and its MTU unless it is zero.
func (b *batch) linkUp(name string, index int32, mtu int) {
	start := b.begin("set "+name+" up", unix.RTM_NEWLINK, 0)
	// struct ifinfomsg
	b.buf = append(b.buf, unix.AF_UNSPEC, 0, 0, 0)
	b.buf = native.AppendUint32(b.buf, uint32(index))
	b.buf = native.AppendUint32(b.buf, unix.IFF_UP)
	b.buf = native.AppendUint32(b.buf, unix.IFF_UP) // which flags are meant
	if mtu != 0 {
		b.attr32(unix.IFLA_MTU, uint32(mtu))
	}
	b.end(start)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (b *batch) address(index int32, p netip.Prefix) {
	start := b.begin("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	var flags byte
	if p.Addr().Is6() {
		flags = unix.IFA_F_NODAD
	}
	// struct ifaddrmsg
	b.buf = append(b.buf, family(p.Addr()), byte(p.Bits()), flags, unix.RT_SCOPE_UNIVERSE)
	b.buf = native.AppendUint32(b.buf, uint32(index))
	b.attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	b.attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
	b.end(start)
}

func (b *batch) defaultRoute(index int32, gateway netip.Addr) {
	start := b.begin("add default route via "+gateway.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	// struct rtmsg
	b.buf = append(b.buf, family(gateway), 0, 0, 0,
		unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	b.buf = native.AppendUint32(b.buf, 0)
	b.attr(unix.RTA_GATEWAY, gateway.AsSlice())
	b.attr32(unix.RTA_OIF, uint32(index))
	b.end(start)
}

// send sends the batch and reports every request that the kernel refused.
func (b *batch) send(fd int) error {
	if err := unix.Sendto(fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netns: netlink: send: %w", err)
	}
	var errs []error
	buf := make([]byte, 64<<10)
	for acks := 0; acks < len(b.names); {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("netns: netlink: receive: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("netns: netlink: %w", err)
		}
		for _, m := range msgs {
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
				continue
			}
			acks++
			errno := syscall.Errno(-int32(native.Uint32(m.Data)))
			if i := int(m.Header.Seq) - 1; errno != 0 && i >= 0 && i < len(b.names) {
				errs = append(errs, fmt.Errorf("netns: %s: %w", b.names[i], errno))
			}
		}
	}
	return errors.Join(errs...)
}
