package testnet

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TCP flags of a Packet.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Packet is what a Capture keeps of one packet.
type Packet struct {
	Out      bool           // sent by the namespace, not received
	Proto    uint8          // the IP protocol; 0 for what is not IP
	Src, Dst netip.AddrPort // ports for TCP and UDP only
	Flags    uint8          // TCP only
	ICMP     uint8          // type, for ICMP and ICMPv6 only
	text     string         // the payload's start, for the marker
}

// String is one line such as "out tcp 10.77.0.2:4711 > 8.8.4.4:80 S".
func (p Packet) String() string {
	dir := "in"
	if p.Out {
		dir = "out"
	}
	switch p.Proto {
	case 0:
		return dir + " not ip"
	case unix.IPPROTO_TCP:
		var flags strings.Builder
		for i, c := range "FSRPAU" {
			if p.Flags&(1<<i) != 0 {
				flags.WriteRune(c)
			}
		}
		return fmt.Sprintf("%s tcp %v > %v %s", dir, p.Src, p.Dst, &flags)
	case unix.IPPROTO_UDP:
		return fmt.Sprintf("%s udp %v > %v", dir, p.Src, p.Dst)
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return fmt.Sprintf("%s icmp type %d %v > %v", dir, p.ICMP, p.Src.Addr(), p.Dst.Addr())
	}
	return fmt.Sprintf("%s proto %d %v > %v", dir, p.Proto, p.Src.Addr(), p.Dst.Addr())
}

// Capture keeps a line about every packet on Uplink's devices, its loopback
// device included. Multicast listener reports, which the kernel sends when it
// pleases, are left out.
type Capture struct {
	net  *Net
	raw  *os.File
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
	err     error
}

// Capture begins to capture in Uplink, until t ends.
func (n *Net) Capture(t testing.TB) *Capture {
	t.Helper()
	var fd int
	err := n.Uplink.Do(func() error {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		// Before the bind, which opens the socket to packets.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}))
	})
	if err != nil {
		t.Fatalf("testnet: capture: %v", err)
	}
	c := &Capture{net: n, raw: os.NewFile(uintptr(fd), "capture"), done: make(chan struct{})}
	go c.run()
	t.Cleanup(func() {
		c.raw.Close()
		<-c.done
	})
	return c
}

// run reads packets until the socket is closed.
func (c *Capture) run() {
	defer close(c.done)
	raw, err := c.raw.SyscallConn()
	buf := make([]byte, 1<<16)
	for err == nil {
		var size int
		var from unix.Sockaddr
		var recvErr error
		err = raw.Read(func(fd uintptr) bool {
			size, from, recvErr = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err = errors.Join(err, recvErr); err != nil {
			break
		}
		ll, _ := from.(*unix.SockaddrLinklayer)
		p := parseFrame(buf[:size])
		p.Out = ll != nil && ll.Pkttype == unix.PACKET_OUTGOING
		if p.Proto == unix.IPPROTO_ICMPV6 && (p.ICMP == 131 || p.ICMP == 132 || p.ICMP == 143) {
			continue
		}
		c.mu.Lock()
		c.packets = append(c.packets, p)
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
}

// markerPort is discard's.
const markerPort = 9

// Packets returns every packet that was sent or received since the capture began,
// in order and exactly: it sends a marker after them and waits to see it.
// It fails the test if the kernel had to drop one from the capture.
func (c *Capture) Packets(t testing.TB) []Packet {
	t.Helper()
	marker := rand.Text()
	err := c.net.Uplink.Do(func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(Remote4, markerPort)))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(marker))
		return err
	})
	if err != nil {
		t.Fatalf("testnet: capture: %v", err)
	}
	var got []Packet
	Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			return c.err
		}
		end := slices.IndexFunc(c.packets, func(p Packet) bool { return p.text == marker })
		if end < 0 {
			return errors.New("the marker has not been captured")
		}
		got = slices.DeleteFunc(slices.Clone(c.packets[:end]), Packet.isMarker)
		return nil
	})
	stats, err := c.stats()
	if err != nil {
		t.Fatalf("testnet: capture: %v", err)
	}
	if stats.Drops != 0 {
		t.Fatalf("testnet: the kernel dropped %d packets from the capture", stats.Drops)
	}
	return got
}

func (c *Capture) stats() (*unix.TpacketStats, error) {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return nil, err
	}
	var stats *unix.TpacketStats
	var callErr error
	err = raw.Control(func(fd uintptr) {
		stats, callErr = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	return stats, errors.Join(err, callErr)
}

// isMarker says whether p is a marker or the ICMP error that answers one.
func (p Packet) isMarker() bool {
	marker := p.Proto == unix.IPPROTO_UDP && p.Dst == netip.AddrPortFrom(Remote4, markerPort)
	answer := p.Proto == unix.IPPROTO_ICMP && !p.Out && p.Src.Addr() == Remote4 && p.ICMP == 3
	return marker || answer
}

// parseFrame reads an Ethernet frame. What it cannot read it leaves zero.
func parseFrame(b []byte) (p Packet) {
	if len(b) < 14 {
		return p
	}
	var src, dst netip.Addr
	var hdr int
	switch kind, ip := binary.BigEndian.Uint16(b[12:]), b[14:]; {
	case kind == unix.ETH_P_IP && len(ip) >= 20:
		src, _ = netip.AddrFromSlice(ip[12:16])
		dst, _ = netip.AddrFromSlice(ip[16:20])
		p.Proto, hdr = ip[9], int(ip[0]&15)*4
	case kind == unix.ETH_P_IPV6 && len(ip) >= 40:
		src, _ = netip.AddrFromSlice(ip[8:24])
		dst, _ = netip.AddrFromSlice(ip[24:40])
		p.Proto, hdr = ip[6], 40
		if p.Proto == 0 && len(ip) >= 48 { // hop-by-hop options: listener reports
			p.Proto, hdr = ip[40], 48+int(ip[41])*8
		}
	default:
		return p
	}
	var sport, dport uint16
	if b = b[14:]; len(b) >= hdr+4 {
		switch b = b[hdr:]; p.Proto {
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
			sport, dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
			if p.Proto == unix.IPPROTO_TCP && len(b) >= 14 {
				p.Flags = b[13] & 0x3f
			} else if len(b) >= 8 {
				p.text = string(b[8:min(len(b), 8+32)])
			}
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			p.ICMP = b[0]
		}
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return p
}
