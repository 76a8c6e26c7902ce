package tuning

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tcpbox/tun/packet"
)

// Of tcpi_options (uapi/linux/tcp.h).
const (
	optTimestamps = 1 << iota
	optSACK
	optWScale
	optECN
)

// keeps opens a connection and later says, by what it carries then, whether an option is
// in use.
func keeps(option uint8) func(*box) func(bool) string {
	return func(b *box) func(bool) string {
		c, s := b.pair()
		return func(bool) string {
			if _, err := c.write(100); err != nil {
				return err.Error()
			}
			b.eventually("it is acknowledged", func() bool { return c.info().Unacked == 0 })
			in := func(s *sock) bool { return s.info().Options&option != 0 }
			if in(c) != in(s) {
				return "at one end"
			}
			return map[bool]string{true: "offered", false: "not offered"}[in(c)]
		}
	}
}

// synSays observes whether the SYN of a connection has something.
func synSays(has func(packet.TCPHeader) bool) func(*box, bool) string {
	return func(b *box, _ bool) string {
		c, s := b.pair()
		var syns []packet.Packet
		b.eventually("the SYN is captured", func() bool {
			syns = b.wire.those(c.port(), s.port(), packet.SYN, packet.ACK)
			return len(syns) > 0
		})
		if has(syns[0].TCP) {
			return "offered"
		}
		return "not offered"
	}
}

// clientFirst makes a connection that the client closes first, and returns its
// port.
func (b *box) clientFirst() uint16 {
	b.t.Helper()
	c, s := b.pair()
	port := c.port()
	b.check(unix.Shutdown(c.fd, unix.SHUT_WR))
	s.readToEnd()
	s.close()
	c.readToEnd()
	c.close()
	return port
}

func (s *sock) readToEnd() {
	s.b.t.Helper()
	buf := make([]byte, 1<<16)
	s.b.eventually("the end comes", func() bool {
		n, err := unix.Read(s.fd, buf)
		return n == 0 && err == nil
	})
}

// heldIn says whether the socket of the port is held in a state, or ends by and by.
func (b *box) heldIn(port uint16, state int, wait bool) string {
	b.t.Helper()
	if wait {
		b.eventually("it is gone", func() bool { return b.states(port)[state] == 0 })
	}
	if b.states(port)[state] == 0 {
		return "ended"
	}
	return "held"
}

func closeAndWait(b *box, c *sock, state int, wait bool) string {
	port := c.port()
	c.close()
	b.eventually("it is in the state, or through with it", func() bool {
		n := b.states(port)
		return n[state] > 0 || len(n) == 0
	})
	return b.heldIn(port, state, wait)
}

// reuse tries the only port again, whose connection is in TIME-WAIT.
func reuse(b *box, set bool) string {
	l := b.listen(8)
	c := b.socket()
	b.check(c.begin(l))
	s := l.accept()
	b.check(unix.Shutdown(c.fd, unix.SHUT_WR))
	s.readToEnd()
	s.close()
	c.readToEnd()
	c.close()
	try := func() error { return b.socket().begin(l) }
	var err error
	if set {
		b.eventually("the port is taken again", func() bool { err = try(); return err == nil })
	} else {
		err = try()
	}
	switch err {
	case nil:
		return "reused"
	case unix.EADDRNOTAVAIL:
		return "no port"
	}
	return err.Error()
}

// assassinate sends the client of a connection in TIME-WAIT an RST that fits.
func assassinate(b *box, port uint16, set bool) string {
	b.t.Helper()
	sent := b.wire.those(port, 0, packet.ACK, 0)
	b.eventually("its last ACK is captured", func() bool {
		sent = b.wire.those(port, 0, packet.ACK, 0)
		return len(sent) > 0 && len(b.wire.those(sent[0].Dst.Port(), port, packet.FIN, 0)) > 0 &&
			sent[len(sent)-1].TCP.Ack == b.wire.those(sent[0].Dst.Port(), port, packet.FIN, 0)[0].TCP.Seq+1
	})
	last := sent[len(sent)-1]
	rst := packet.Build{Src: last.Dst, Dst: last.Src, Proto: packet.TCP, Flags: packet.RST, Seq: last.TCP.Ack}.Bytes()
	f, err := b.NS().Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	b.check(err)
	defer f.Close()
	b.check(unix.Sendto(int(f.Fd()), rst, 0, &unix.SockaddrInet4{Addr: loopback.As4()}))
	b.eventually("the RST is captured", func() bool { return len(b.wire.those(last.Dst.Port(), port, packet.RST, 0)) > 0 })
	if !set {
		b.eventually("it has ended", func() bool { return b.states(port)[timeWait] == 0 })
	}
	if b.states(port)[timeWait] == 0 {
		return "assassinated"
	}
	return "stays"
}

// overflow has four clients of a listener that does not accept.
func overflow(b *box, l *sock, set bool) string {
	before := b.counter("ListenOverflows")
	var clients []*sock
	for range 4 {
		c := b.socket()
		b.check(c.begin(l))
		clients = append(clients, c)
	}
	dropped := func() bool { return b.counter("ListenOverflows") > before }
	if set {
		b.eventually("the queue overflows", dropped)
	} else {
		for _, c := range clients {
			b.eventually("it is connected", func() bool { _, err := unix.Getpeername(c.fd); return err == nil })
		}
	}
	if dropped() {
		return "some are dropped"
	}
	return "all wait"
}

// probes switches keepalive on for a client whose peer is silent.
func probes(b *box, c, s *sock, set bool) string {
	from, to := c.port(), s.port()
	s.deaf()
	var before int
	b.eventually("the handshake is captured", func() bool {
		before = len(b.wire.those(from, to, packet.ACK, 0))
		return before > 0
	})
	c.option(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	if !set {
		left := keepaliveLeft(b, from)
		if left < 3600 {
			return fmt.Sprintf("a probe in %d s", left)
		}
		return "no probe is due"
	}
	var err error
	b.eventually("the connection ends", func() bool { err = c.err(); return err != nil })
	if err != unix.ETIMEDOUT {
		return err.Error()
	}
	n := len(b.wire.those(from, to, packet.ACK, packet.RST)) - before
	return fmt.Sprintf("%d probes, then ETIMEDOUT", n)
}

// unanswered has the client write what is never acknowledged.
func unanswered(b *box, c, s *sock, set bool) string {
	from, to := c.port(), s.port()
	s.deaf()
	_, err := c.write(100)
	b.check(err)
	if !set {
		b.eventually("it is sent four times", func() bool { return len(b.wire.those(from, to, packet.PSH, 0)) >= 4 })
		if err := c.err(); err != nil {
			return err.Error()
		}
		return "4 transmissions and more"
	}
	b.eventually("the connection ends", func() bool { err = c.err(); return err != nil })
	if err == unix.ETIMEDOUT {
		return "ETIMEDOUT"
	}
	return err.Error()
}

// info is what TCP_INFO says of the state of the connection.
func (s *sock) info() *unix.TCPInfo {
	s.b.t.Helper()
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	s.b.check(err)
	return info
}

// timeout says how long the retransmission timeout is after an exchange.
func timeout(b *box, c, s *sock) string {
	buf := make([]byte, 100)
	for range 3 {
		_, err := c.write(len(buf))
		b.check(err)
		b.eventually("it arrives", func() bool { n, _ := unix.Read(s.fd, buf); return n > 0 })
	}
	b.eventually("it is acknowledged", func() bool { return c.info().Unacked == 0 })
	if c.info().Rto >= 1_000_000 {
		return "a second and more"
	}
	return "under a second"
}

// longest says how the timeout grows.
func longest(b *box, c, s *sock) string {
	from, to := c.port(), s.port()
	s.deaf()
	_, err := c.write(100)
	b.check(err)
	b.eventually("it is sent five times", func() bool { return len(b.wire.those(from, to, packet.PSH, 0)) >= 5 })
	switch rto := c.info().Rto; {
	case rto <= 1_000_000:
		return "a second"
	default:
		return "it doubles beyond"
	}
}

// unread says how much a receiver holds that nobody reads.
func unread(b *box, c, s *sock) string {
	for sent := 0; sent < 1<<20; {
		n, err := c.write(1 << 12)
		if err != nil {
			break
		}
		sent += n
	}
	held := func() int {
		n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
		b.check(err)
		return n
	}
	b.eventually("the window is shut, or much is held", func() bool {
		out, err := unix.IoctlGetInt(c.fd, unix.SIOCOUTQ)
		b.check(err)
		return held() > 8<<10 || out > 0 && held() > 0
	})
	b.eventually("it does not change any more", func() bool {
		n := held()
		return n > 8<<10 || c.info().Retransmits+c.info().Probes > 0 || n == held()
	})
	if held() > 8<<10 {
		return "more than 8k"
	}
	return "at most 8k"
}

// unsent says how much a sender takes that nobody acknowledges.
func unsent(b *box, c, s *sock) string {
	s.deaf()
	sent := 0
	for {
		n, err := c.write(1 << 10)
		if err != nil {
			break
		}
		sent += n
	}
	if sent > 200<<10 {
		return "more than 200k"
	}
	return "less"
}

// growth carries bytes and says what becomes of the receiver's buffer.
func growth(b *box, c, s *sock) string {
	size := func() int {
		n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		b.check(err)
		return n
	}
	before := size()
	buf := make([]byte, 1<<20)
	for moved := 0; moved < 64<<20 && size() == before; {
		_, _ = c.write(len(buf))
		if n, err := unix.Read(s.fd, buf); err == nil {
			moved += n
		}
	}
	if size() > before {
		return "it grows"
	}
	return "it stays"
}

// algorithm is the congestion control of a connection.
func algorithm(b *box, c *sock, set bool) string {
	name, err := unix.GetsockoptString(c.fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	b.check(err)
	usual, err := b.NS().Sysctl("net.ipv4.tcp_congestion_control")
	b.check(err)
	if !set && (name != "reno" || usual == "reno") {
		return "the default"
	}
	return name
}

// keepaliveLeft is in how many seconds a keepalive probe is due.
func keepaliveLeft(b *box, port uint16) int {
	b.t.Helper()
	text, err := b.NS().ProcNet("tcp")
	b.check(err)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) > 5 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			if when, ok := strings.CutPrefix(f[5], "02:"); ok { // in hundredths
				n, err := strconv.ParseInt(when, 16, 64)
				b.check(err)
				return int(n / 100)
			}
		}
	}
	b.t.Fatal("no keepalive timer runs")
	return 0
}
