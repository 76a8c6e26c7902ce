package tuning

import (
	"encoding/binary"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"tcpbox/tun/packet"
)

// wire keeps the TCP segments that arrive on the guest's loopback.
type wire struct {
	file *os.File
	done chan struct{}

	mu   sync.Mutex
	seen []packet.Packet
}

func (b *box) capture() *wire {
	b.t.Helper()
	ip := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP))
	f, err := b.NS().Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, int(ip))
	b.check(err)
	w := &wire{file: f, done: make(chan struct{})}
	go w.run()
	b.t.Cleanup(func() {
		f.Close()
		<-w.done
	})
	return w
}

// run reads until the socket is closed.
func (w *wire) run() {
	defer close(w.done)
	raw, err := w.file.SyscallConn()
	buf := make([]byte, 1<<16)
	for err == nil {
		var n int
		var from unix.Sockaddr
		var got error
		err = raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			return got != unix.EAGAIN
		})
		if err != nil || got != nil {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue // it will arrive
		}
		if p, err := packet.Parse(buf[:n]); err == nil && p.Proto == packet.TCP {
			w.mu.Lock()
			w.seen = append(w.seen, p)
			w.mu.Unlock()
		}
	}
}

// those returns the segments so far that from to to were sent and have the flags.
func (w *wire) those(from, to uint16, has, hasNot packet.Flags) []packet.Packet {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.seen), func(p packet.Packet) bool {
		return from != 0 && p.Src.Port() != from || to != 0 && p.Dst.Port() != to || !p.TCP.Flags.Has(has) || p.TCP.Flags&hasNot != 0
	})
}
