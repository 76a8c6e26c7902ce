package sockwatch

import (
	"net/netip"
	"testing"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

var (
	wireGuest = netip.MustParseAddrPort("198.18.0.2:40000")
	wirePeer  = netip.MustParseAddrPort("198.18.0.16:80")
)

// told is a Watcher that is told what happens, and nothing else.
type told struct {
	*Watcher
	got     recording
	numbers tcpstate.Numbers
	at      time.Time
	iss     uint32
}

// newTold returns one, with a trace in which nothing stands by itself, or without.
func newTold(traced bool) *told {
	d := &told{at: time.Unix(1000, 0), iss: 7}
	d.Watcher = newWatcher(Config{Sink: d.got.add, Numbers: &d.numbers, now: func() time.Time { return d.at }})
	if traced {
		d.trace = &trace{consumed: new(uint64), produced: new(uint64)}
	}
	return d
}

// wire is a step that segments tell.
func (d *told) wire(from, to tcpstate.State) {
	d.at = d.at.Add(time.Millisecond)
	d.Step(Step{Time: d.at, Local: wireGuest, Remote: wirePeer, From: from, To: to, ISS: d.iss})
}

// kernel is a change that the trace tells, of a socket whose port is known or not.
func (d *told) kernel(from, to tcpstate.State, local netip.AddrPort) {
	d.at = d.at.Add(time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.traced(&event{at: d.at, sock: 1, from: from, to: to, local: local, remote: wirePeer})
}

// kernelLeaves: the trace tells that the socket is gone which was in FIN-WAIT-2;
// the kernel keeps that state without one.
func (d *told) kernelLeaves() {
	d.at = d.at.Add(time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.traced(&event{at: d.at, sock: 1, from: tcpstate.FinWait2, to: tcpstate.Closed, local: wireGuest, remote: wirePeer, dead: true})
}

// dump is a look that has found the socket in a state.
func (d *told) dump(s tcpstate.State) {
	began := d.at.Add(time.Millisecond)
	d.at = began.Add(time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.join([]sockdiag.Socket{{State: s, Local: wireGuest, Remote: wirePeer}}, began, d.at, true)
}

// way are the states that were told, and who told them.
func (d *told) way() (text string) {
	for _, tr := range d.got.of(wireGuest) {
		text += " " + tr.To.String() + "/" + tr.Source.String()
	}
	return text
}

func TestStepBesideTheTrace(t *testing.T) {
	const closed, listen, asked, half, stands = tcpstate.Closed, tcpstate.Listen, tcpstate.SynSent, tcpstate.SynReceived, tcpstate.Established
	const unknown, closing1, closing2, waits = tcpstate.Unknown, tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.TimeWait
	for _, tt := range []struct {
		name string
		tell func(d *told)
		want string
	}{
		{"the ACK of a handshake passes before the kernel takes it", func(d *told) {
			d.wire(closed, half)
			d.wire(half, stands)
			d.kernel(listen, half, wireGuest)
			d.kernel(half, stands, wireGuest)
		}, " SYN-RECEIVED/wire ESTABLISHED/kernel"},
		{"the kernel does not take it", func(d *told) {
			d.wire(closed, half)
			d.wire(half, stands)
		}, " SYN-RECEIVED/wire"},
		{"a FIN is sent again, which the wire takes for a sign that it was never acknowledged", func(d *told) {
			d.wire(closed, half)
			d.kernel(half, stands, wireGuest)
			d.kernel(stands, closing1, wireGuest)
			d.kernel(closing1, closing2, wireGuest)
			d.kernelLeaves()
			d.wire(closing2, unknown)
			d.wire(unknown, closing2)
			d.wire(closing2, waits)
			d.wire(waits, unknown) // an RST: some end it by that, some do not
		}, " SYN-RECEIVED/wire ESTABLISHED/kernel FIN-WAIT-1/kernel FIN-WAIT-2/kernel TIME-WAIT/wire UNKNOWN/wire"},
		{"the trace lacks its end, and another socket is in its place", func(d *told) {
			d.wire(closed, half)
			d.kernel(half, stands, wireGuest)
			d.kernel(stands, closing1, wireGuest)
			d.kernel(listen, half, netip.AddrPortFrom(wireGuest.Addr(), 40001))
			d.dump(closing2)
		}, " SYN-RECEIVED/wire ESTABLISHED/kernel FIN-WAIT-1/kernel FIN-WAIT-2/diag"},
		{"a SYN is seen when its socket is no more", func(d *told) {
			d.kernel(closed, asked, netip.AddrPortFrom(wireGuest.Addr(), 0))
			d.kernel(asked, closed, wireGuest)
			d.wire(closed, asked)
		}, " SYN-SENT/kernel CLOSED/kernel"},
		{"and the next one between the same two", func(d *told) {
			d.kernel(closed, asked, netip.AddrPortFrom(wireGuest.Addr(), 0))
			d.kernel(asked, closed, wireGuest)
			d.wire(closed, asked)
			d.wire(closed, asked) // once more
			d.iss = 8
			d.wire(closed, asked)
		}, " SYN-SENT/kernel CLOSED/kernel SYN-SENT/wire"},
	} {
		d := newTold(true)
		tt.tell(d)
		if got := d.way(); got != tt.want {
			t.Errorf("%s: it went%s, want%s", tt.name, got, tt.want)
		}
	}
}

func TestLateSYNHasTheNumber(t *testing.T) {
	d := newTold(true)
	d.kernel(tcpstate.Closed, tcpstate.SynSent, netip.AddrPortFrom(wireGuest.Addr(), 0))
	d.kernel(tcpstate.SynSent, tcpstate.Closed, wireGuest)
	d.wire(tcpstate.Closed, tcpstate.SynSent)
	conn := d.got.of(wireGuest)[0].Conn
	if got := d.numbers.Begin(tcpstate.Stack, wireGuest, wirePeer, 7); got != conn {
		t.Errorf("the stack has number %d, the guest %d", got, conn)
	}
}

func TestDumpBeforeTheSYN(t *testing.T) {
	const closed, asked, stands, closing1 = tcpstate.Closed, tcpstate.SynSent, tcpstate.Established, tcpstate.FinWait1
	d := newTold(false)
	d.begun = true
	d.dump(stands) // while all of it is still in the queue
	d.wire(closed, asked)
	d.wire(asked, stands)
	d.wire(stands, closing1)
	if got, want := d.way(), " ESTABLISHED/diag FIN-WAIT-1/wire"; got != want {
		t.Errorf("it went%s, want%s", got, want)
	}
	conn := d.got.of(wireGuest)[0].Conn
	if got := d.numbers.Begin(tcpstate.Stack, wireGuest, wirePeer, 7); got != conn {
		t.Errorf("the stack has number %d, the guest %d", got, conn)
	}

	d = newTold(false)
	d.dump(stands) // it was there before the watching
	d.wire(closed, asked)
	if got, want := d.way(), " ESTABLISHED/diag CLOSED/wire SYN-SENT/wire"; got != want {
		t.Errorf("it went%s, want%s", got, want)
	}
}

func TestDumpBehindAStep(t *testing.T) {
	const closed, half, stands, closing1 = tcpstate.Closed, tcpstate.SynReceived, tcpstate.Established, tcpstate.FinWait1
	d := newTold(false)
	d.wire(closed, half)
	d.wire(half, stands)
	d.dump(half) // the ACK is on its way
	d.wire(stands, closing1)
	if got, want := d.way(), " SYN-RECEIVED/wire ESTABLISHED/wire FIN-WAIT-1/wire"; got != want {
		t.Errorf("it went%s, want%s", got, want)
	}
	d = newTold(false)
	d.wire(closed, half)
	d.wire(half, stands)
	d.dump(half)
	d.dump(half) // the guest does not take it
	if got, want := d.way(), " SYN-RECEIVED/wire ESTABLISHED/wire SYN-RECEIVED/diag"; got != want {
		t.Errorf("it went%s, want%s", got, want)
	}
}

func TestStepBehindADump(t *testing.T) {
	const closed, asked, stands, closing1, closing2, waits = tcpstate.Closed, tcpstate.SynSent, tcpstate.Established, tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.TimeWait
	d := newTold(false)
	d.wire(closed, asked)
	d.dump(closing1) // what the guest has sent meanwhile is still in the queue
	d.wire(asked, stands)
	d.wire(stands, closing1)
	d.wire(closing1, closing2)
	d.wire(closing2, waits)
	const want = " SYN-SENT/wire FIN-WAIT-1/diag FIN-WAIT-2/wire TIME-WAIT/wire"
	if got := d.way(); got != want {
		t.Errorf("it went%s, want%s", got, want)
	}
}
