package testnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SendSYNs puts n SYNs over IPv4 on a device that has no link header, past the
// namespace's own stack: from src, the next port after it, and so on.
func (ns *Namespace) SendSYNs(t testing.TB, device string, src, dst netip.AddrPort, n int) {
	t.Helper()
	send := ns.synSender(t, device)
	for i := range n {
		send(netip.AddrPortFrom(src.Addr(), src.Port()+uint16(i)), dst)
	}
}

// synSender returns what sends a SYN, until t ends.
func (ns *Namespace) synSender(t testing.TB, device string) (send func(src, dst netip.AddrPort)) {
	t.Helper()
	ip := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP))
	to := &unix.SockaddrLinklayer{Protocol: ip}
	fd := -1
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		to.Ifindex = dev.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatalf("testnet: send SYNs: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(src, dst netip.AddrPort) {
		if err := unix.Sendto(fd, synPacket(src, dst), 0, to); err != nil {
			t.Fatalf("testnet: send a SYN: %v", err)
		}
	}
}

// FloodSYNs has the other end of a device that has no link header read n SYNs over
// IPv4: the i'th from and to what of says. So that none gets lost it waits while many
// are in the device's queue.
func (ns *Namespace) FloodSYNs(t testing.TB, device string, n int, of func(i int) (src, dst netip.AddrPort)) {
	t.Helper()
	const burst = 200 // and two of them are in the queue, which has room for 500
	counters := func() *netlink.LinkStatistics {
		link, err := ns.nl.LinkByName(device)
		if err != nil {
			t.Fatalf("testnet: flood: %v", err)
		}
		return link.Attrs().Statistics
	}
	begun := counters()
	await := func(least int) {
		for end := time.Now().Add(Patience); ; time.Sleep(50 * time.Microsecond) {
			now := counters()
			got := int(now.TxPackets - begun.TxPackets)
			switch lost := now.TxDropped - begun.TxDropped; {
			case lost > 0:
				t.Fatalf("testnet: flood: %s dropped %d packets", device, lost)
			case got >= least:
				return
			case time.Now().After(end):
				t.Fatalf("testnet: flood: of %d packets on %s %d are read", least, device, got)
			}
		}
	}
	send := ns.synSender(t, device)
	for i := range n {
		if i%burst == 0 {
			await(i - burst)
		}
		send(of(i))
	}
	await(n)
}

// synPacket is an IPv4 packet with a SYN and no options.
func synPacket(src, dst netip.AddrPort) []byte {
	s, d := src.Addr().As4(), dst.Addr().As4()
	ip := []byte{0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	ip = append(append(ip, s[:]...), d[:]...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], 1)
	tcp[12], tcp[13] = 5<<4, SYN
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	pseudo := append(slices.Clone(ip[12:20]), 0, unix.IPPROTO_TCP, 0, 20)
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	return append(ip, tcp...)
}

// checksum is that of RFC 1071, over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
