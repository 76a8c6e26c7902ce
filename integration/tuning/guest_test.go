package tuning

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
	"tcpbox/tun/packet"
)

// row is a knob of the guest's leg and what it does there.
type row struct {
	knob     string
	settings []string
	always   []string // in force from the start in each case

	// observe says in a word or two how a new connection behaves. set says that
	// the settings are in force: what takes long to see is waited for only then.
	observe     func(b *box, set bool) string
	plain, want string

	// fresh: what is seen without it uses the sandbox up.
	fresh bool

	// existing, if there is one, makes a connection, and later says how it
	// behaves. kept is what it says after a change, where it does not follow.
	existing func(b *box) func(set bool) string
	kept     string
}

func (r row) follows() string {
	if r.kept != "" {
		return r.kept
	}
	return r.want
}

var guestRows = []row{
	{
		knob: "sack", settings: []string{"guest.sack=off"}, plain: "offered", want: "not offered",
		observe:  synSays(func(h packet.TCPHeader) bool { return h.SACKPermitted }),
		existing: keeps(optSACK),
		kept:     "offered",
	},
	{
		knob: "timestamps", settings: []string{"guest.timestamps=off"}, plain: "offered", want: "not offered",
		observe:  synSays(func(h packet.TCPHeader) bool { return h.HasTimestamps }),
		existing: keeps(optTimestamps),
		kept:     "offered",
	},
	{
		knob: "window-scaling", settings: []string{"guest.window-scaling=off"}, plain: "offered", want: "not offered",
		observe:  synSays(func(h packet.TCPHeader) bool { return h.HasWScale }),
		existing: keeps(optWScale),
		kept:     "offered",
	},
	{
		knob: "ecn", settings: []string{"guest.ecn=on"}, plain: "not offered", want: "offered",
		observe:  synSays(func(h packet.TCPHeader) bool { return h.Flags.Has(packet.ECE | packet.CWR) }),
		existing: keeps(optECN),
		kept:     "not offered",
	},
	{
		knob: "port-range", settings: []string{"guest.port-range=20000-20004"}, plain: "elsewhere", want: "within",
		observe: func(b *box, _ bool) string {
			for range 5 {
				c, _ := b.pair()
				if p := c.port(); p < 20000 || p > 20004 {
					return "elsewhere"
				}
			}
			return "within"
		},
	},
	{
		knob: "reserved-ports", settings: []string{"guest.reserved-ports=20000,20002"}, always: []string{"guest.port-range=20000-20003"},
		fresh: true, plain: "4 ports", want: "2 ports",
		observe: func(b *box, _ bool) string {
			l := b.listen(8)
			for n := 0; ; n++ {
				if err := b.socket().begin(l); err == unix.EADDRNOTAVAIL {
					return fmt.Sprintf("%d ports", n)
				} else if err != nil {
					return err.Error()
				}
			}
		},
	},
	{
		knob: "time-wait.max", settings: []string{"guest.time-wait.max=0"}, plain: "TIME-WAIT", want: "none, and counted",
		observe: func(b *box, _ bool) string {
			before := b.counter("TCPTimeWaitOverflow")
			port := b.clientFirst()
			switch n := b.counter("TCPTimeWaitOverflow") - before; {
			case b.states(port)[timeWait] == 1 && n == 0:
				return "TIME-WAIT"
			case b.states(port)[timeWait] == 0 && n == 1:
				return "none, and counted"
			default:
				return fmt.Sprint(b.states(port), n)
			}
		},
	},
	{
		knob: "time-wait.timeout", settings: []string{"guest.time-wait.timeout=400ms"}, plain: "held", want: "ended",
		observe: func(b *box, set bool) string { return b.heldIn(b.clientFirst(), timeWait, set) },
		existing: func(b *box) func(bool) string {
			port := b.clientFirst()
			return func(set bool) string { return b.heldIn(port, timeWait, set) }
		},
	},
	{
		knob: "time-wait.reuse", settings: []string{"guest.time-wait.reuse=on", "guest.time-wait.reuse-delay=1ms"},
		always: []string{"guest.port-range=20000-20000", "guest.time-wait.reuse=off"}, fresh: true, plain: "no port", want: "reused",
		observe: reuse,
	},
	{
		knob: "time-wait.reuse-delay", settings: []string{"guest.time-wait.reuse-delay=1ms"},
		always: []string{"guest.port-range=20000-20000", "guest.time-wait.reuse=on", "guest.time-wait.reuse-delay=1m"},
		fresh:  true, plain: "no port", want: "reused",
		observe: reuse,
	},
	{
		knob: "time-wait.rfc1337", settings: []string{"guest.time-wait.rfc1337=on"}, plain: "assassinated", want: "stays",
		observe: func(b *box, set bool) string { return assassinate(b, b.clientFirst(), set) },
		existing: func(b *box) func(bool) string {
			port := b.clientFirst()
			return func(set bool) string { return assassinate(b, port, set) }
		},
	},
	{
		knob: "fin-timeout", settings: []string{"guest.fin-timeout=1s"}, plain: "held", want: "ended",
		observe: func(b *box, set bool) string {
			c, _ := b.pair()
			return closeAndWait(b, c, finWait2, set)
		},
		existing: func(b *box) func(bool) string {
			c, _ := b.pair()
			return func(set bool) string { return closeAndWait(b, c, finWait2, set) }
		},
	},
	{
		knob: "orphan.retries", settings: []string{"guest.orphan.retries=1"}, plain: "held", want: "ended",
		observe: func(b *box, set bool) string {
			c, s := b.pair()
			s.deaf()
			return closeAndWait(b, c, finWait1, set)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			s.deaf()
			return func(set bool) string { return closeAndWait(b, c, finWait1, set) }
		},
	},
	{
		knob: "syn-retries", settings: []string{"guest.syn-retries=1"}, plain: "3 SYNs and more", want: "2 SYNs, then ETIMEDOUT",
		observe: func(b *box, set bool) string {
			// Since Linux 6.5 the first are a second apart, and more in the same time.
			_ = b.NS().SetSysctl("net.ipv4.tcp_syn_linear_timeouts", "0")
			l, c := b.listen(8), b.socket()
			c.deaf()
			b.check(c.begin(l))
			syns := func() int { return len(b.wire.those(c.port(), l.port(), packet.SYN, packet.ACK)) }
			if !set {
				b.eventually("three SYNs", func() bool { return syns() >= 3 })
				return "3 SYNs and more"
			}
			var err error
			port := c.port()
			b.eventually("the connect fails", func() bool { err = c.err(); return err != nil })
			if err != unix.ETIMEDOUT {
				return err.Error()
			}
			return fmt.Sprintf("%d SYNs, then ETIMEDOUT", len(b.wire.those(port, l.port(), packet.SYN, packet.ACK)))
		},
		existing: func(b *box) func(bool) string {
			_ = b.NS().SetSysctl("net.ipv4.tcp_syn_linear_timeouts", "0")
			l, c := b.listen(8), b.socket()
			c.deaf()
			b.check(c.begin(l))
			return func(bool) string { // which would take 127 s, with 7 SYNs, if it did not follow
				var err error
				port := c.port()
				b.eventually("the connect fails", func() bool { err = c.err(); return err != nil })
				if n := len(b.wire.those(port, l.port(), packet.SYN, packet.ACK)); err != unix.ETIMEDOUT || n > 6 {
					return fmt.Sprintf("%d SYNs, then %v", n, err)
				}
				return "2 SYNs, then ETIMEDOUT" // or more, if it was told late
			}
		},
	},
	{
		knob: "synack-retries", settings: []string{"guest.synack-retries=1"}, plain: "held", want: "given up",
		observe: func(b *box, set bool) string {
			l, c := b.listen(8), b.socket()
			c.deaf()
			b.check(c.begin(l))
			b.eventually("a half-open handshake", func() bool { return b.states(l.port())[synReceived] == 1 })
			l.deaf() // what the client sends again begins no other
			answers := func() int { return len(b.wire.those(l.port(), c.port(), packet.SYN|packet.ACK, 0)) }
			if !set {
				b.eventually("three SYN-ACKs", func() bool { return answers() >= 3 })
				if b.states(l.port())[synReceived] != 1 {
					return "given up"
				}
				return "held"
			}
			b.eventually("it is given up", func() bool { return b.states(l.port())[synReceived] == 0 })
			if n := answers(); n > 3 {
				return fmt.Sprintf("%d SYN-ACKs", n)
			}
			return "given up"
		},
		existing: func(b *box) func(bool) string {
			l, c := b.listen(8), b.socket()
			c.deaf()
			b.check(c.begin(l))
			b.eventually("a half-open handshake", func() bool { return b.states(l.port())[synReceived] == 1 })
			l.deaf()
			return func(bool) string { // which would take 63 s, with 6 SYN-ACKs
				b.eventually("it is given up", func() bool { return b.states(l.port())[synReceived] == 0 })
				if n := len(b.wire.those(l.port(), c.port(), packet.SYN|packet.ACK, 0)); n > 5 {
					return fmt.Sprintf("%d SYN-ACKs", n)
				}
				return "given up"
			}
		},
	},
	{
		knob: "syn-cookies", settings: []string{"guest.syn-cookies=always"}, plain: "no cookie", want: "a cookie",
		observe: func(b *box, _ bool) string {
			before := b.counter("SyncookiesSent")
			b.pair()
			if b.counter("SyncookiesSent") == before {
				return "no cookie"
			}
			return "a cookie"
		},
	},
	{
		knob: "syn-backlog", settings: []string{"guest.syn-backlog=16"}, always: []string{"guest.syn-cookies=off"},
		plain: "all are half-open", want: "some are dropped",
		observe: func(b *box, _ bool) string {
			const n = 40
			l := b.listen(128)
			for range n {
				c := b.socket()
				c.deaf()
				b.check(c.begin(l))
			}
			if b.states(l.port())[synReceived] < n {
				return "some are dropped"
			}
			return "all are half-open"
		},
	},
	{
		knob: "accept-backlog", settings: []string{"guest.accept-backlog=1"}, plain: "all wait", want: "some are dropped",
		observe: func(b *box, set bool) string { return overflow(b, b.listen(100), set) },
		existing: func(b *box) func(bool) string {
			l := b.listen(100)
			return func(set bool) string {
				b.check(unix.Listen(l.fd, 100)) // as the table says
				return overflow(b, l, set)
			}
		},
	},
	{
		knob: "accept-overflow", settings: []string{"guest.accept-overflow=reset"}, plain: "silence", want: "RST",
		observe: func(b *box, set bool) string {
			l := b.listen(10)
			var clients []*sock
			for range 3 {
				c := b.socket()
				c.deaf()
				b.check(c.begin(l))
				clients = append(clients, c)
			}
			b.eventually("three are half-open", func() bool { return b.states(l.port())[synReceived] == 3 })
			b.check(unix.Listen(l.fd, 0)) // one may wait
			for _, c := range clients {
				c.hearing()
			}
			b.eventually("the queue has overflown", func() bool { return b.counter("ListenOverflows") > 0 })
			resets := func() bool { return len(b.wire.those(l.port(), 0, packet.RST, 0)) > 0 }
			if set {
				b.eventually("an RST", resets)
			}
			if resets() {
				return "RST"
			}
			return "silence"
		},
	},
	{
		knob: "fast-open", settings: []string{"guest.fast-open=off"}, plain: "it may", want: "EOPNOTSUPP",
		observe: func(b *box, _ bool) string {
			l, c := b.listen(8), b.socket()
			switch err := unix.Sendto(c.fd, []byte("hello"), unix.MSG_FASTOPEN, l.local()); err {
			case nil, unix.EINPROGRESS:
				return "it may"
			case unix.EOPNOTSUPP:
				return "EOPNOTSUPP"
			default:
				return err.Error()
			}
		},
	},
	{
		knob: "keepalive", settings: []string{"guest.keepalive.idle=1s", "guest.keepalive.interval=1s", "guest.keepalive.count=2"},
		plain: "no probe is due", want: "2 probes, then ETIMEDOUT",
		observe: func(b *box, set bool) string {
			c, s := b.pair()
			return probes(b, c, s, set)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			c.option(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
			c.option(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0) // its timer is set anew below
			return func(set bool) string { return probes(b, c, s, set) }
		},
	},
	{
		knob: "data-retries", settings: []string{"guest.data-retries=1"}, plain: "4 transmissions and more", want: "ETIMEDOUT",
		observe: func(b *box, set bool) string {
			c, s := b.pair()
			return unanswered(b, c, s, set)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(set bool) string { return unanswered(b, c, s, set) }
		},
	},
	{
		knob: "rto.min", settings: []string{"guest.rto.min=1s"}, plain: "under a second", want: "a second and more",
		observe: func(b *box, _ bool) string {
			c, s := b.pair()
			return timeout(b, c, s)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(bool) string { return timeout(b, c, s) }
		},
		kept: "under a second",
	},
	{
		knob: "rto.max", settings: []string{"guest.rto.max=1s"}, plain: "it doubles beyond", want: "a second",
		observe: func(b *box, _ bool) string {
			c, s := b.pair()
			return longest(b, c, s)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(bool) string { return longest(b, c, s) }
		},
		kept: "it doubles beyond",
	},
	{
		knob: "receive-buffer", settings: []string{"guest.receive-buffer=8k"}, plain: "more than 8k", want: "at most 8k",
		observe: func(b *box, _ bool) string {
			c, s := b.pair()
			return unread(b, c, s)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(bool) string { return unread(b, c, s) }
		},
		kept: "more than 8k",
	},
	{
		knob: "send-buffer", settings: []string{"guest.send-buffer=8k"}, plain: "more than 200k", want: "less",
		observe: func(b *box, _ bool) string {
			c, s := b.pair()
			return unsent(b, c, s)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(bool) string { return unsent(b, c, s) }
		},
		kept: "more than 200k",
	},
	{
		knob: "auto-tuning", settings: []string{"guest.auto-tuning=off"}, plain: "it grows", want: "it stays",
		observe: func(b *box, _ bool) string {
			c, s := b.pair()
			return growth(b, c, s)
		},
		existing: func(b *box) func(bool) string {
			c, s := b.pair()
			return func(bool) string { return growth(b, c, s) }
		},
	},
	{
		knob: "congestion-control", settings: []string{"guest.congestion-control=reno"}, plain: "the default", want: "reno",
		observe: func(b *box, set bool) string {
			c, _ := b.pair()
			return algorithm(b, c, set)
		},
		existing: func(b *box) func(bool) string {
			c, _ := b.pair()
			return func(bool) string { return algorithm(b, c, false) }
		},
		kept: "the default",
	},
}

// TestGuest has each row in three acts: set from the start; set while it runs, seen
// by new connections; and by a connection that was there.
func TestGuest(t *testing.T) {
	for _, r := range guestRows {
		t.Run(r.knob, func(t *testing.T) {
			t.Parallel()
			t.Run("from the start", func(t *testing.T) {
				t.Parallel()
				b := begin(t, append(append([]string{}, r.always...), r.settings...)...)
				if got := r.observe(b, true); got != r.want {
					t.Errorf("%v: %s, want %s", r.settings, got, r.want)
				}
			})
			t.Run("live", func(t *testing.T) {
				t.Parallel()
				b := begin(t, r.always...)
				if got := r.observe(b, false); got != r.plain {
					t.Errorf("without it: %s, want %s", got, r.plain)
				}
				if r.fresh {
					b = begin(t, r.always...)
				}
				b.set(r.settings...)
				if got := r.observe(b, true); got != r.want {
					t.Errorf("%v: %s, want %s", r.settings, got, r.want)
				}
			})
			if r.existing == nil {
				return
			}
			t.Run("an existing connection", func(t *testing.T) {
				t.Parallel()
				b := begin(t, r.always...)
				later := r.existing(b)
				b.set(r.settings...)
				if got := later(true); got != r.follows() {
					t.Errorf("%v: %s, want %s", r.settings, got, r.follows())
				}
			})
		})
	}
}

// Whatever the table says that the guest's leg carries is shown above.
func TestGuestRowsAreWhole(t *testing.T) {
	shown := make(map[string]bool)
	for _, r := range guestRows {
		for _, s := range parse(t, r.settings...) {
			shown[s.Key] = true
		}
	}
	for _, d := range knob.Table() {
		if d.Guest.Carries && !shown[d.Key] {
			t.Errorf("no row shows guest.%s", d.Key)
		}
	}
}
