package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// verbed is a connection through a sandbox, with real sockets at both its ends, to
// which something is done from outside.
type verbed struct {
	*published
	guest, far *net.TCPConn // the guest's socket, and the one in the world
	conn       string       // its number
}

// ssRow is a connection as ss tells of it.
type ssRow struct {
	Conn      uint64         `json:"conn"`
	GuestAddr netip.AddrPort `json:"guest_addr"`
	PeerAddr  netip.AddrPort `json:"peer_addr"`
	ClosedBy  *tcpstate.Leg  `json:"closed_by"`
	ClosedHow *tcpstate.How  `json:"closed_how"`
	Frozen    bool           `json:"frozen"`
}

func (v *verbed) rows() []ssRow {
	v.t.Helper()
	got := v.tcpbox("ss", v.name, "--json", "--closed")
	var all struct{ Connections []ssRow }
	if err := json.Unmarshal([]byte(got.stdout), &all); err != nil {
		v.t.Fatalf("ss: %v: %v", err, got)
	}
	return all.Connections
}

// row is what ss says of the connection.
func (v *verbed) row() (ssRow, error) {
	v.t.Helper()
	local, remote := addrOf(v.guest.LocalAddr()), addrOf(v.guest.RemoteAddr())
	for _, r := range v.rows() {
		if r.GuestAddr == local && r.PeerAddr == remote {
			return r, nil
		}
	}
	return ssRow{}, fmt.Errorf("ss has no connection of %v and %v", local, remote)
}

// do does something to the connection and wants it to succeed.
func (v *verbed) do(verb string) {
	v.t.Helper()
	if got := v.tcpbox("conn", verb, v.name, "#"+v.conn); got.code != 0 || got.stdout+got.stderr != "" {
		v.t.Fatalf("conn %s: %v", verb, got)
	}
}

// fails does something to the connection and wants it to fail, with one error.
func (v *verbed) fails(verb string) {
	v.t.Helper()
	if got := v.tcpbox("conn", verb, v.name, v.conn); got.code != 125 || strings.Count(got.stderr, "tcpbox: error:") != 1 {
		v.t.Errorf("conn %s: %v, want one error and status 125", verb, got)
	}
}

// closedBy waits until ss says who closed it, and how.
func (v *verbed) closedBy(want string) {
	v.t.Helper()
	testnet.Eventually(v.t, func() error {
		r, err := v.row()
		if err != nil || r.ClosedBy == nil || r.ClosedHow == nil {
			return fmt.Errorf("not closed: %w", errors.Join(err, errors.New("closed_by is null")))
		}
		if got := fmt.Sprint(*r.ClosedBy, " ", *r.ClosedHow); got != want {
			return fmt.Errorf("closed by %s, want %s", got, want)
		}
		return nil
	})
}

// logged waits until a leg has gone from ESTABLISHED for this cause.
func (v *verbed) logged(leg tcpstate.Leg, cause string) {
	v.t.Helper()
	testnet.Eventually(v.t, func() error {
		for _, r := range v.records(v.t) {
			if strconv.FormatUint(r.Conn, 10) == v.conn && r.Leg == leg && r.From == tcpstate.Established && r.Cause == cause {
				return nil
			}
		}
		return fmt.Errorf("the log has no %q of the %v leg of connection %s", cause, leg, v.conn)
	})
}

// waitState waits until a socket is in one of the states.
func (v *verbed) waitState(ns *testnet.Namespace, c *net.TCPConn, want ...tcpstate.State) {
	v.t.Helper()
	testnet.Eventually(v.t, func() error {
		got := ns.State(v.t, addrOf(c.LocalAddr()), addrOf(c.RemoteAddr()))
		for _, w := range want {
			if got == w {
				return nil
			}
		}
		return fmt.Errorf("%v is in %v, want %v", c.LocalAddr(), got, want)
	})
}

// eachVerbed runs play on a connection that the guest has opened, and on one through
// a published port, each in a sandbox of its own.
func eachVerbed(t *testing.T, play func(v *verbed)) {
	n := testnet.New(t)
	ready := func(v *verbed) {
		for _, c := range []*net.TCPConn{v.guest, v.far} {
			must(t, c.SetDeadline(time.Now().Add(testnet.Patience)))
		}
		say(v.t, v.guest, ".")
		hear(v.t, v.far, ".")
		say(v.t, v.far, ".")
		hear(v.t, v.guest, ".")
		testnet.Eventually(v.t, func() error {
			r, err := v.row()
			v.conn = strconv.FormatUint(r.Conn, 10)
			return err
		})
	}
	t.Run("outbound", func(t *testing.T) {
		v := &verbed{published: publish(t, n, "--allow", testnet.Remote4.String())}
		l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(testnet.Remote4, 0))
		f := &fixture{net: n, box: v.box, listen: l}
		p := f.connect(t)
		v.guest, v.far = p.guest, p.server
		ready(v)
		play(v)
	})
	t.Run("inbound", func(t *testing.T) {
		v := &verbed{published: publish(t, n, "-p", uplink4.String()+":80")}
		l := v.listenInside(false)
		c, err := n.Remote.DialTCP(t.Context(), netip.AddrPort{}, uplink4)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		g, err := l.AcceptTCP()
		must(t, err)
		t.Cleanup(func() { g.Close() })
		v.guest, v.far = g, c
		ready(v)
		play(v)
	})
}

func TestConnRST(t *testing.T) {
	eachVerbed(t, func(v *verbed) {
		v.do("rst")
		hearReset(v.t, v.guest)
		hearReset(v.t, v.far)
		v.closedBy("stack RST")
		v.logged(tcpstate.Guest, "segment RST")
		v.logged(tcpstate.Stack, "policy conn rst")
		v.logged(tcpstate.Upstream, "policy conn rst")
		testnet.Eventually(v.t, func() error {
			if got := v.tcpbox("conn", "rst", v.name, v.conn); !strings.Contains(got.stderr, "it has ended") {
				return fmt.Errorf("conn rst: %v", got)
			}
			return nil
		})
	})
}

func TestConnClose(t *testing.T) {
	eachVerbed(t, func(v *verbed) {
		// The guest's bytes wait in front of what is not read, and then its end is
		// asked for.
		v.do("freeze")
		say(v.t, v.guest, "question")
		say(v.t, v.far, "answer")
		testnet.Eventually(v.t, func() error { // both have been acknowledged
			return errors.Join(sent(v.guest), sent(v.far))
		})
		v.do("close")
		hearEnd(v.t, v.far, "question")
		hearEnd(v.t, v.guest, "answer")
		v.waitState(v.Namespace, v.guest, tcpstate.CloseWait)
		v.waitState(v.n.Remote, v.far, tcpstate.CloseWait)
		v.fails("freeze")
		// The ends close: nobody of them holds TIME-WAIT.
		must(v.t, v.guest.Close())
		must(v.t, v.far.Close())
		v.waitState(v.Namespace, v.guest, tcpstate.Closed, tcpstate.Unknown)
		v.closedBy("stack FIN")
		v.logged(tcpstate.Stack, "policy conn close")
		v.logged(tcpstate.Upstream, "policy conn close")
		v.logged(tcpstate.Guest, "segment FIN")
	})
}

// sent reports whether all that was written to c has been acknowledged.
func sent(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var left int
	cerr := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if err := errors.Join(cerr, err); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%d bytes of %v have not been acknowledged", left, c.LocalAddr())
	}
	return nil
}

func TestConnFreeze(t *testing.T) {
	eachVerbed(t, func(v *verbed) {
		v.do("thaw") // what is not frozen
		v.do("freeze")
		v.do("freeze")
		if r, err := v.row(); err != nil || !r.Frozen {
			v.t.Errorf("ss says frozen %v, %v", r.Frozen, err)
		}
		if got := v.tcpbox("ss", v.name); !strings.Contains(got.stdout, "FROZEN") || !strings.Contains(got.stdout, " frozen ") {
			v.t.Errorf("ss prints %v", got)
		}
		// Each end writes until its window is closed; nothing arrives.
		const size = 64 << 20
		written := func(c *net.TCPConn) int {
			must(v.t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
			n, err := c.Write(make([]byte, size))
			if !isTimeout(err) {
				v.t.Fatalf("wrote %d bytes, %v: a frozen connection took all", n, err)
			}
			return n
		}
		out, in := written(v.guest), written(v.far)
		for _, c := range []*net.TCPConn{v.guest, v.far} {
			must(v.t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
			if n, err := c.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
				v.t.Errorf("%v read %d bytes, %v", c.LocalAddr(), n, err)
			}
			must(v.t, c.SetDeadline(time.Now().Add(testnet.Patience)))
		}
		v.waitState(v.Namespace, v.guest, tcpstate.Established)
		v.waitState(v.n.Remote, v.far, tcpstate.Established)
		v.do("thaw")
		v.do("thaw")
		took := make(chan error, 2)
		take := func(c *net.TCPConn, n int) {
			m, err := io.Copy(io.Discard, io.LimitReader(c, int64(n)))
			if m != int64(n) || err != nil {
				err = fmt.Errorf("%v read %d bytes of %d, %w", c.LocalAddr(), m, n, errors.Join(err, io.ErrUnexpectedEOF))
			}
			took <- err
		}
		go take(v.far, out)
		go take(v.guest, in)
		must(v.t, errors.Join(<-took, <-took))
		if r, err := v.row(); err != nil || r.Frozen {
			v.t.Errorf("ss says frozen %v, %v", r.Frozen, err)
		}
		// An RST is passed on also while it is frozen.
		v.do("freeze")
		reset(v.t, v.far)
		hearReset(v.t, v.guest)
		v.closedBy("upstream RST")
		v.logged(tcpstate.Guest, "segment RST")
	})
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
