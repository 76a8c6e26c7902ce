package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

// history keeps what a Host tells of its sockets.
type history struct {
	mu  sync.Mutex
	all []tcpstate.Transition
}

func (h *history) add(t tcpstate.Transition) {
	h.mu.Lock()
	h.all = append(h.all, t)
	h.mu.Unlock()
}

// String is the states and the causes between them, without the FIN-WAIT-2 that
// comes or not as the ACK is faster or slower than the look.
func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for i, t := range h.all {
		if i == 0 {
			b.WriteString(t.From.String())
		}
		if t.To == tcpstate.FinWait2 {
			continue
		}
		cause := t.Cause.String()
		if t.From == tcpstate.FinWait2 || t.From == tcpstate.FinWait1 {
			cause = "segment"
		}
		fmt.Fprintf(&b, " -%s-> %v", cause, t.To)
	}
	return b.String()
}

// faults says what is wrong with any history.
func (h *history) faults() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, t := range h.all {
		switch {
		case i > 0 && t.From != h.all[i-1].To:
			return fmt.Sprintf("%v follows on %v", t.From, h.all[i-1].To)
		case t.Conn != 7 || t.Leg != tcpstate.Upstream || !t.Local.IsValid() || !t.Remote.IsValid():
			return fmt.Sprintf("%+v is not whole", t)
		case t.To != tcpstate.Unknown && !tcpstate.Legal(t.From, t.To):
			return fmt.Sprintf("%v to %v is not legal", t.From, t.To)
		}
	}
	return ""
}

// afterwards says in turn what Find is to find.
type afterwards struct {
	mu     sync.Mutex
	states []tcpstate.State
}

func (a *afterwards) find(_, _ netip.AddrPort) (tcpstate.State, time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.states) == 0 {
		return tcpstate.Closed, 0, nil
	}
	state := a.states[0]
	a.states = a.states[1:]
	return state, time.Millisecond, nil
}

const opened = "CLOSED -call connect-> SYN-SENT -segment SYN-ACK-> ESTABLISHED "

func TestTheStatesOfTheHostSocket(t *testing.T) {
	t.Parallel()
	readEOF := func(t *testing.T, c net.Conn) {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("no FIN came")
		}
	}
	for _, row := range []struct {
		name  string
		play  func(t *testing.T, c *Conn, far *net.TCPConn)
		after []tcpstate.State
		want  string
	}{
		{"this end closes first", func(t *testing.T, c *Conn, far *net.TCPConn) {
			c.CloseWrite()
			readEOF(t, far)
			far.Close()
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}, []tcpstate.State{tcpstate.TimeWait}, opened + "-call shutdown-> FIN-WAIT-1 -segment-> TIME-WAIT -unknown-> CLOSED"},
		{"the far end closes first", func(t *testing.T, c *Conn, far *net.TCPConn) {
			far.CloseWrite()
			_, _ = c.Read(make([]byte, 1))
			c.CloseWrite()
			readEOF(t, far)
			c.Close()
		}, nil, opened + "-segment FIN-> CLOSE-WAIT -call shutdown-> LAST-ACK -segment ACK-> CLOSED"},
		{"the far end resets", func(_ *testing.T, c *Conn, far *net.TCPConn) {
			_ = far.SetLinger(0)
			far.Close()
			_, _ = c.Read(make([]byte, 1))
			c.Reset()
		}, nil, opened + "-segment RST-> CLOSED"},
		{"this end resets", func(_ *testing.T, c *Conn, _ *net.TCPConn) { c.Reset() }, nil, opened + "-call abort-> CLOSED"},
		{"released while it waits for the far end", func(t *testing.T, c *Conn, far *net.TCPConn) {
			c.CloseWrite()
			readEOF(t, far)
			c.Close()
		}, []tcpstate.State{tcpstate.FinWait2, tcpstate.TimeWait}, opened + "-call shutdown-> FIN-WAIT-1 -segment-> TIME-WAIT -unknown-> CLOSED"},
		{"the far end's FIN is not read before this end's", func(t *testing.T, c *Conn, far *net.TCPConn) {
			far.CloseWrite()
			eventually(t, "the FIN", func() bool { return c.State() == tcpstate.CloseWait })
			c.CloseWrite()
			readEOF(t, far)
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}, nil, opened + "-segment FIN-> CLOSE-WAIT -call shutdown-> LAST-ACK -segment ACK-> CLOSED"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var told history
			after := afterwards{states: row.after}
			h := &Host{Sink: told.add, Find: after.find}
			defer h.Close()
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			c, err := h.dialTCP(t.Context(), 7, addrPortOf(l.Addr()))
			if err != nil {
				t.Fatal(err)
			}
			far, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			row.play(t, c, far.(*net.TCPConn))
			// Whether LAST-ACK ended before the last look or after is not to matter.
			got := func() string {
				return strings.Replace(told.String(), "LAST-ACK -segment-> CLOSED", "LAST-ACK -segment ACK-> CLOSED", 1)
			}
			eventually(t, row.want, func() bool { return got() == row.want })
			if f := told.faults(); f != "" {
				t.Errorf("%s: %s", f, &told)
			}
			if path, ok := c.Path(); !ok || path.RTT <= 0 {
				t.Errorf("the path is %v, %v", path, ok)
			}
		})
	}
}

func TestTheStatesOfADialThatFails(t *testing.T) {
	var told history
	h := &Host{Sink: told.add}
	defer h.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := addrPortOf(l.Addr())
	l.Close()
	if _, err := h.dialTCP(t.Context(), 7, nobody); err == nil {
		t.Fatal("somebody listens")
	}
	// A refusal that connect(2) itself meets has no SYN-SENT to be seen.
	if got, want := told.String(), "CLOSED -call connect-> SYN-SENT -segment RST-> CLOSED"; got != want && got != "" {
		t.Errorf("refused: %s, want %s", got, want)
	}
}

func TestASocketThatCannotBeFollowedIsUnknown(t *testing.T) {
	var told history
	h := &Host{Sink: told.add}
	defer h.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := h.dialTCP(context.Background(), 7, addrPortOf(l.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	c.Close()
	if got, want := told.String(), opened+"-call shutdown-> FIN-WAIT-1 -segment-> UNKNOWN"; got != want {
		t.Errorf("released: %s, want %s", got, want)
	}
}

// TestAFINThatIsAnsweredAtOnce: the far end's FIN may be read before shutdown(2) has
// returned, and the kernel has no socket any more, but a TIME-WAIT.
func TestAFINThatIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 300 {
		var told history
		h := &Host{Sink: told.add, Find: (&afterwards{}).find}
		c, err := h.dialTCP(t.Context(), 7, addrPortOf(l.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = far.Read(make([]byte, 1))
			far.Close()
		})
		both.Go(func() { _, _ = c.Read(make([]byte, 1)) })
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		both.Wait()
		c.Close()
		if path := told.String(); !strings.HasPrefix(path, opened+"-call shutdown-> FIN-WAIT-1 -segment-> TIME-WAIT") {
			t.Errorf("connection %d went %s", i, path)
		}
		h.Close()
	}
}
