package netstack

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
	"tcpbox/tun/tuntest"
)

// A knobGuest is a guest made of single packets, in front of a stack whose clock
// stands still and whose knobs are set as a user sets them.
type knobGuest struct {
	*rawGuest
	clock *faketime.ManualClock
	port  uint16 // of the newest connection
	said  *said
}

// said is what a log has been told.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newKnobGuest(t testing.TB, opts ...func(*Config)) *knobGuest {
	t.Helper()
	clock, said := newStandingClock(), new(said)
	log := slog.New(slog.NewTextHandler(said, nil))
	opts = append(opts, onClock(clock), func(cfg *Config) { cfg.Log = log })
	return &knobGuest{rawGuest: newRawGuest(t, opts...), clock: clock, port: 2000, said: said}
}

// set sets knobs, each as "KEY=VALUE".
func (k *knobGuest) set(settings ...string) {
	k.t.Helper()
	var all []knob.Setting
	for _, text := range settings {
		s, err := knob.ParseSetting(text)
		if err != nil {
			k.t.Fatal(err)
		}
		if why, ok := PlanKnob(s); !ok {
			k.t.Fatalf("%s: %s", text, why)
		}
		all = append(all, s)
	}
	if err := k.gateway.ApplyKnobs(all); err != nil {
		k.t.Fatalf("%s: %v", settings, err)
	}
}

// next is a connection from another port of the guest.
func (k *knobGuest) next() *rawConn {
	k.port++
	return k.conn(k.port)
}

// timeWait opens a connection and brings the stack's end to TIME-WAIT, or past
// it.
func (k *knobGuest) timeWait() *Conn {
	k.t.Helper()
	return k.closeFirst(k.next())
}

func (k *knobGuest) closeFirst(c *rawConn) *Conn {
	k.t.Helper()
	s := c.establish()
	s.Close()
	c.expect(finAck)
	c.send(finAck, "")
	c.expect(ackFl)
	k.log.waitPast(k.t, s.ID(), tcpstate.TimeWait)
	s.settle()
	return s
}

// ends waits until the connection has ended, and checks why.
func (k *knobGuest) ends(s *Conn, cause string) {
	k.t.Helper()
	path := k.log.waitFor(k.t, s.ID(), tcpstate.Closed)
	if got := path[len(path)-1].Cause.String(); got != cause {
		k.t.Errorf("connection %d ended by %q, want by %q", s.ID(), got, cause)
	}
}

// stays checks that connections are in a state when all that was sent has been
// handled.
func (k *knobGuest) stays(state tcpstate.State, conns ...*Conn) {
	k.t.Helper()
	k.ping(k.t)
	for _, s := range conns {
		if got := s.rec.state(); got != state {
			k.t.Errorf("connection %d is in %v, want %v; it went %q", s.ID(), got, state, describePath(k.log.of(s.ID())))
		}
	}
}

// noRST checks that the guest has had no RST.
func (k *knobGuest) noRST() {
	k.t.Helper()
	for _, f := range k.Frames() {
		if f.Packet.Proto == packet.TCP && f.Packet.TCP.Flags.Has(packet.RST) {
			k.t.Errorf("an RST came: %v", &f)
		}
	}
}

// opened dials port 8080 of the guest, which accepts.
func (k *knobGuest) opened() (*rawConn, *Conn) {
	k.t.Helper()
	return k.openedAt(8080)
}

// openedAt is opened with another port of the guest.
func (k *knobGuest) openedAt(port uint16) (*rawConn, *Conn) {
	k.t.Helper()
	c, errs, conns := k.dial(k.ctx, port)
	c.send(synAck, "")
	c.expect(ackFl)
	if err := <-errs; err != nil {
		k.t.Fatal(err)
	}
	return c, <-conns
}

// openedAndClosed dials the guest, and closes first.
func (k *knobGuest) openedAndClosed() (*rawConn, *Conn) {
	k.t.Helper()
	c, s := k.opened()
	s.Close()
	c.expect(finAck)
	c.send(finAck, "")
	c.expect(ackFl)
	k.log.waitPast(k.t, s.ID(), tcpstate.TimeWait)
	s.settle()
	return c, s
}

// noPort checks that a dial finds no port.
func (k *knobGuest) noPort() {
	k.t.Helper()
	if _, err := k.gateway.Dial(k.ctx, 0, ap(gatewayAddr, 0), ap(guestAddr, 8080)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		k.t.Errorf("Dial = %v, want EADDRNOTAVAIL", err)
	}
}

// A knobRow is one thing that a knob does.
type knobRow struct {
	does string
	run  func(*testing.T, *knobGuest)
}

// timeWaitRows are those of TIME-WAIT and of ports.
var timeWaitRows = map[string][]knobRow{
	"time-wait.timeout": {
		{"set before", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.timeout=5s")
			wantAge(t, stepUntil(t, k.clock, k.log, k.timeWait().ID(), tcpstate.Closed, time.Minute), "timer time-wait", 5*time.Second)
		}},
		{"live: an open connection follows, one in TIME-WAIT keeps its time", func(t *testing.T, k *knobGuest) {
			old, c := k.timeWait(), k.next()
			open := c.establish()
			k.set("time-wait.timeout=5s")
			open.Close()
			c.expect(finAck)
			c.send(finAck, "")
			c.expect(ackFl)
			k.log.waitPast(t, open.ID(), tcpstate.TimeWait)
			open.settle()
			wantAge(t, stepUntil(t, k.clock, k.log, open.ID(), tcpstate.Closed, time.Minute), "timer time-wait", 5*time.Second)
			wantAge(t, stepUntil(t, k.clock, k.log, old.ID(), tcpstate.Closed, 2*time.Minute), "timer time-wait", time.Minute)
		}},
	},
	"time-wait.max": {
		{"set before: the newest goes without", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.max=2")
			a, b := k.timeWait(), k.timeWait()
			for range 3 {
				k.ends(k.timeWait(), "policy time-wait.max")
			}
			k.stays(tcpstate.TimeWait, a, b)
			k.noRST()
			if st := k.gateway.Stats(); st.TimeWait != 2 || st.TimeWaitOverflow != 3 {
				t.Errorf("TimeWait = %d and TimeWaitOverflow = %d, want 2 and 3", st.TimeWait, st.TimeWaitOverflow)
			}
			stepUntil(t, k.clock, k.log, a.ID(), tcpstate.Closed, 2*time.Minute)
			k.ends(b, "timer time-wait")
			k.stays(tcpstate.TimeWait, k.timeWait()) // there is room again
		}},
		{"none", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.max=0")
			k.ends(k.timeWait(), "policy time-wait.max")
			k.noRST()
		}},
		{"live: the newest of those that are there end, open connections follow", func(t *testing.T, k *knobGuest) {
			conns := []*Conn{k.timeWait(), k.timeWait(), k.timeWait(), k.timeWait()}
			c := k.next()
			open := c.establish()
			k.set("time-wait.max=2")
			k.ends(conns[2], "policy time-wait.max")
			k.ends(conns[3], "policy time-wait.max")
			k.stays(tcpstate.TimeWait, conns[:2]...)
			open.Close()
			c.expect(finAck)
			c.send(finAck, "")
			k.ends(open, "policy time-wait.max")
			k.set("time-wait.max=3")
			k.stays(tcpstate.TimeWait, k.timeWait())
			k.noRST()
		}},
		{"what has not been read is not lost", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.max=0")
			c := k.next()
			s := c.establish()
			s.CloseWrite()
			c.expect(finAck)
			c.send(finAck, "the last words")
			c.expect(ackFl)
			k.log.waitFor(t, s.ID(), tcpstate.TimeWait)
			eventually(t, "it was condemned", func() bool { return s.rec.atRelease.Load() != 0 })
			buf := make([]byte, 20)
			if n, err := s.Read(buf); err != nil || string(buf[:n]) != "the last words" {
				t.Errorf("Read = %q, %v", buf[:n], err)
			}
			k.stays(tcpstate.TimeWait, s)
			s.Close()
			k.ends(s, "policy time-wait.max")
			k.noRST()
		}},
		{"a connection that the stack opened", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.max=0", "port-range=20000-20000")
			for range 5 { // each frees the only port
				_, s := k.openedAndClosed()
				k.ends(s, "policy time-wait.max")
			}
		}},
	},
	"time-wait.overflow": {
		{"set before: the oldest ends", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.overflow=drop-oldest", "time-wait.max=2")
			a, b, c := k.timeWait(), k.timeWait(), k.timeWait()
			k.ends(a, "policy time-wait.max")
			k.stays(tcpstate.TimeWait, b, c)
			d := k.timeWait()
			k.ends(b, "policy time-wait.max")
			k.stays(tcpstate.TimeWait, c, d)
			k.noRST()
		}},
		{"live", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.max=1")
			a := k.timeWait()
			k.ends(k.timeWait(), "policy time-wait.max")
			k.set("time-wait.overflow=drop-oldest")
			c := k.timeWait()
			k.ends(a, "policy time-wait.max")
			k.set("time-wait.overflow=drop-newest")
			k.ends(k.timeWait(), "policy time-wait.max")
			k.stays(tcpstate.TimeWait, c)
		}},
	},
	"time-wait.reuse": {
		{"off, loopback, on, live, with a TIME-WAIT that is there", func(t *testing.T, k *knobGuest) {
			k.set("port-range=20000-20000", "time-wait.reuse=off")
			_, s := k.openedAndClosed()
			k.clock.Advance(5 * time.Second)
			k.noPort()
			k.set("time-wait.reuse=loopback")
			k.noPort()
			k.set("time-wait.reuse=on")
			k.opened()
			k.ends(s, "policy time-wait.reuse")
			k.noRST()
		}},
		{"a port outside the range is left alone", func(t *testing.T, k *knobGuest) {
			k.set("port-range=20000-20000", "time-wait.reuse=on")
			_, outside := k.openedAndClosed()
			k.set("port-range=20001-20001")
			_, inside := k.openedAndClosed()
			k.clock.Advance(5 * time.Second)
			if c, _ := k.opened(); c.dst.Port() != 20001 {
				t.Errorf("it took port %d", c.dst.Port())
			}
			k.ends(inside, "policy time-wait.reuse")
			k.noPort()
			k.stays(tcpstate.TimeWait, outside)
		}},
		{"another destination's port is free in any case", func(t *testing.T, k *knobGuest) {
			k.set("port-range=20000-20000", "time-wait.reuse=on")
			_, s := k.openedAndClosed()
			k.clock.Advance(5 * time.Second)
			c, errs, _ := k.dial(k.ctx, 8081)
			c.send(synAck, "")
			if err := <-errs; err != nil {
				t.Error(err)
			}
			k.stays(tcpstate.TimeWait, s)
		}},
	},
	"time-wait.reuse-delay": {
		{"default, and live with a TIME-WAIT that is there", func(t *testing.T, k *knobGuest) {
			k.set("port-range=20000-20000", "time-wait.reuse=on")
			k.openedAndClosed()
			k.clock.Advance(time.Second - time.Millisecond)
			k.noPort()
			k.clock.Advance(time.Millisecond)
			k.openedAndClosed()
			k.set("time-wait.reuse-delay=10s")
			k.clock.Advance(10*time.Second - time.Millisecond)
			k.noPort()
			k.set("time-wait.reuse-delay=5ms")
			k.openedAndClosed()
			k.noPort()
			k.clock.Advance(5 * time.Millisecond)
			k.openedAndClosed()
		}},
	},
	"time-wait.newer-syn": {
		{"off: an ACK, live on: a connection", func(t *testing.T, k *knobGuest) {
			c := k.next()
			s := k.closeFirst(c)
			k.set("time-wait.newer-syn=off")
			next := c.seq
			c.seq += 1000
			c.syn()
			if p := c.expect(ackFl); p.TCP.Ack != next {
				t.Errorf("the ACK acknowledges %d, want %d", p.TCP.Ack, next)
			}
			k.stays(tcpstate.TimeWait, s)
			k.set("time-wait.newer-syn=on")
			c.seq += 1000
			c.syn()
			accept(k.request())
			c.expect(synAck)
			k.ends(s, "policy time-wait reopened")
		}},
		{"off, set before: open when TIME-WAIT has ended", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.newer-syn=off", "time-wait.timeout=5s")
			c := k.next()
			s := k.closeFirst(c)
			c.seq += 1000
			c.syn()
			c.expect(ackFl)
			stepUntil(t, k.clock, k.log, s.ID(), tcpstate.Closed, time.Minute)
			c.seq--
			c.syn()
			accept(k.request())
			c.expect(synAck)
		}},
	},
	"time-wait.recycle": {
		{"off by default: TIME-WAIT lasts, and an address has no clock", func(t *testing.T, k *knobGuest) {
			k.set("rto.min=1s")
			a := k.next()
			a.ts = 100000
			s := k.closeFirst(a)
			k.clock.Advance(10 * time.Second)
			k.stays(tcpstate.TimeWait, s)
			b := k.next()
			b.ts = 50000
			b.syn()
			accept(k.request())
			b.expect(synAck)
		}},
		{"on: it ends after 3.5 timeouts, if it has timestamps", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.recycle=on", "rto.min=1s")
			without := k.timeWait()
			c := k.next()
			c.ts = 1000
			s := k.closeFirst(c)
			k.clock.Advance(3499 * time.Millisecond)
			k.stays(tcpstate.TimeWait, s)
			k.clock.Advance(time.Millisecond)
			k.ends(s, "policy time-wait.recycle")
			k.stays(tcpstate.TimeWait, without)
			eventually(t, "one is counted", func() bool {
				st := k.gateway.Stats()
				return st.TimeWaitRecycled == 1 && st.TimeWait == 1
			})
		}},
		{"on: an older clock behind the same address is not answered", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.recycle=on")
			a := k.next()
			a.ts = 100000
			k.closeFirst(a)
			dropped := func(ts uint32, want uint64) {
				t.Helper()
				c := k.next()
				c.ts = ts
				c.syn()
				eventually(t, "the SYN is counted", func() bool { return k.gateway.Stats().RecycleDropped == want })
				if n := len(k.requests); n != 0 {
					t.Errorf("%d connections were asked for", n)
				}
			}
			opens := func(ts uint32) {
				t.Helper()
				c := k.next()
				c.ts = ts
				c.syn()
				accept(k.request())
				c.expect(synAck)
			}
			dropped(50000, 1)
			dropped(99998, 2)
			opens(99999)
			opens(100000)
			opens(200000)
			opens(0) // none
			dropped(50000, 3)
			k.clock.Advance(time.Minute - time.Millisecond)
			dropped(50000, 4)
			k.clock.Advance(time.Millisecond)
			opens(50000) // the minute is over
			if n := k.gateway.Stats().RecycleDropped; n != 4 {
				t.Errorf("%d SYNs were dropped, want 4", n)
			}
		}},
		{"live off and on: what was remembered is forgotten", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.recycle=on")
			a := k.next()
			a.ts = 100000
			k.closeFirst(a)
			k.set("time-wait.recycle=off")
			k.set("time-wait.recycle=on")
			b := k.next()
			b.ts = 50000
			b.syn()
			accept(k.request())
			b.expect(synAck)
		}},
		{"on: a SYN for the TIME-WAIT itself is judged by that", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.recycle=on", "rto.min=10s")
			c := k.next()
			c.ts = 1000
			s := k.closeFirst(c)
			next := c.seq
			c.seq += 1000
			c.ts = 999
			c.syn()
			if p := c.expect(ackFl); p.TCP.Ack != next {
				t.Errorf("the ACK acknowledges %d, want %d", p.TCP.Ack, next)
			}
			k.stays(tcpstate.TimeWait, s)
		}},
	},
	"time-wait.rfc1337": {
		{"off by default", func(t *testing.T, k *knobGuest) {
			c := k.next()
			s := k.closeFirst(c)
			c.seq++
			c.send(rst, "") // not the next sequence number
			k.stays(tcpstate.TimeWait, s)
			c.seq--
			c.send(rst, "")
			k.ends(s, "segment RST")
			k.noRST()
		}},
		{"on, and live off with a TIME-WAIT that is there", func(t *testing.T, k *knobGuest) {
			k.set("time-wait.rfc1337=on")
			c := k.next()
			s := k.closeFirst(c)
			c.send(rst, "")
			k.stays(tcpstate.TimeWait, s)
			k.set("time-wait.rfc1337=off")
			c.send(rst, "")
			k.ends(s, "segment RST")
		}},
	},
	"reserved-ports": {
		{"live: of four ports two are left, and another destination has its own", func(t *testing.T, k *knobGuest) {
			k.set("port-range=1000-1003", "reserved-ports=1001,1003-2000")
			var got []uint16
			for range 2 {
				c, _ := k.opened()
				got = append(got, c.dst.Port())
			}
			if slices.Sort(got); !slices.Equal(got, []uint16{1000, 1002}) {
				t.Errorf("SYNs came from ports %v", got)
			}
			k.noPort()
			if c, _ := k.openedAt(8081); c.dst.Port() != 1000 && c.dst.Port() != 1002 {
				t.Errorf("a SYN to another port came from %d", c.dst.Port())
			}
			k.set("reserved-ports=1000-1002")
			if c, _ := k.opened(); c.dst.Port() != 1003 {
				t.Errorf("a SYN came from port %d", c.dst.Port())
			}
			k.set("reserved-ports=none")
			if c, _ := k.opened(); c.dst.Port() != 1001 {
				t.Errorf("a SYN came from port %d", c.dst.Port())
			}
		}},
		{"a port that is asked for is not picked", func(t *testing.T, k *knobGuest) {
			k.set("reserved-ports=1-65535")
			k.noPort()
			errs := make(chan error, 1)
			go func() {
				_, err := k.gateway.Dial(k.ctx, 0, ap(gatewayAddr, 1234), ap(guestAddr, 8080))
				errs <- err
			}()
			f, err := k.Wait(k.ctx, func(f *tuntest.Recorded) bool { return f.Packet.Src == ap(gatewayAddr, 1234) })
			if err != nil {
				t.Fatal(err)
			}
			c := &rawConn{g: k.rawGuest, src: ap(guestAddr, 8080), dst: ap(gatewayAddr, 1234), seq: 1, ack: f.Packet.TCP.Seq + 1}
			c.send(synAck, "")
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}},
		{"reuse takes over none of them", func(t *testing.T, k *knobGuest) {
			k.set("port-range=20000-20001", "time-wait.reuse=on", "reserved-ports=20001")
			_, s := k.openedAndClosed()
			k.clock.Advance(5 * time.Second)
			k.set("reserved-ports=20000")
			_, other := k.openedAndClosed()
			k.clock.Advance(5 * time.Second)
			if c, _ := k.opened(); c.dst.Port() != 20001 {
				t.Errorf("a SYN came from port %d", c.dst.Port())
			}
			k.ends(other, "policy time-wait.reuse")
			k.stays(tcpstate.TimeWait, s)
		}},
	},
	"port-range": {
		{"default", func(t *testing.T, k *knobGuest) {
			for range 20 {
				if c, _ := k.opened(); c.dst.Port() < 32768 || c.dst.Port() > 60999 {
					t.Errorf("a SYN came from port %d", c.dst.Port())
				}
			}
		}},
		{"live", func(t *testing.T, k *knobGuest) {
			k.set("port-range=1000-1001")
			var got []uint16
			for range 2 {
				c, _ := k.opened()
				got = append(got, c.dst.Port())
			}
			k.noPort()
			k.set("port-range=65535-65535")
			c, _ := k.opened()
			slices.Sort(got)
			if want := []uint16{1000, 1001}; !slices.Equal(got, want) || c.dst.Port() != 65535 {
				t.Errorf("SYNs came from ports %v, and %d", got, c.dst.Port())
			}
			k.set("port-range=1-65535")
			k.opened()
		}},
	},
}

// knobRows are all rows.
func knobRows() map[string][]knobRow {
	all := make(map[string][]knobRow)
	for _, some := range []map[string][]knobRow{timeWaitRows, closeRows, openRows, aliveRows, pathRows, synRows} {
		for key, rows := range some {
			all[key] = rows
		}
	}
	return all
}

// TestKnobs shows what each knob of the stack does: on the wire, in a state or
// in a counter.
func TestKnobs(t *testing.T) {
	rows := knobRows()
	for _, def := range knob.Table() {
		_, carried := tunings[def.Key]
		if relayed := def.Key == "half-close-timeout"; (carried || relayed) != def.Stack.Carries {
			t.Errorf("%s: the table says of the stack's leg %v, the stack says %v", def.Key, def.Stack.Carries, carried)
		}
		if carried != (len(rows[def.Key]) > 0) {
			t.Errorf("%s: the stack carries it: %v; it has %d rows", def.Key, carried, len(rows[def.Key]))
		}
	}
	for key, rows := range rows {
		for _, row := range rows {
			t.Run(key+"/"+strings.ReplaceAll(row.does, "/", "-"), func(t *testing.T) {
				t.Parallel()
				row.run(t, newKnobGuest(t))
			})
		}
	}
}
