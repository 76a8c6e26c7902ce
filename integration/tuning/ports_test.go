package tuning

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/stack/peer"
	"tcpbox/stack/tcpstate"
)

var update = flag.Bool("update", false, "rewrite the measured part of docs/knobs.md")

// Each row of the experiment makes so many connections, three times, to one
// destination and from a range of so many ports.
const (
	ports = 40
	times = 60
)

// delay is the reuse delay of rows that say no other, and what the rows that end
// TIME-WAIT early end it after.
const delay = time.Second

// destination is whom the connections of a row go to.
type destination int

const (
	waits       destination = iota // it closes after who connects
	secondToo                      // so do two of them: the second turn is the other's
	closesFirst                    // it closes first
	overLoop                       // it waits, and is at the guest's own loopback
)

// portRow is what is set, and what becomes of the connections.
type portRow struct {
	leg      tcpstate.Leg // that connects
	settings string       // of that leg, unless they name another
	note     string
	to       destination
	pace     time.Duration // from one connection to the next
	hurry    bool          // it says something only if two turns take less than delay

	want   [3]int // how many of times stand: first, again at once, and later
	held   int    // in TIME-WAIT at the end; uncertain
	beyond int    // have ended without
	which  string // of the first turn are held at its end, where there is a limit
}

// uncertain: it depends on which of several ports was chosen.
const uncertain = -1

// The rules behind the numbers: a port whose connection to the same destination
// is in TIME-WAIT is taken (RFC 9293, section 3.6), until TIME-WAIT ends, or until
// reuse allows it. Beyond time-wait.max there is no TIME-WAIT.
var portRows = []portRow{
	{leg: tcpstate.Guest, note: "the default", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Guest, settings: "time-wait.reuse=off", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Guest, settings: "time-wait.reuse=loopback", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Guest, settings: "time-wait.reuse=loopback", note: "to 127.0.0.1", to: overLoop, hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{leg: tcpstate.Guest, settings: "time-wait.reuse=on", note: "with its delay of 1s", hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{
		leg: tcpstate.Guest, settings: "time-wait.reuse=on time-wait.reuse-delay=100ms", note: "one connection in 3 ms",
		pace: 3 * time.Millisecond, want: [3]int{60, 60, 60}, held: uncertain,
	},
	{leg: tcpstate.Guest, settings: "time-wait.reuse=on timestamps=off", want: [3]int{40, 0, 0}, held: 40},
	{
		leg: tcpstate.Guest, settings: "time-wait.reuse=on time-wait.reuse-delay=100ms timestamps=off", note: "one connection in 3 ms",
		pace: 3 * time.Millisecond, want: [3]int{40, 0, 0}, held: 40,
	},
	{leg: tcpstate.Guest, settings: "time-wait.max=0", want: [3]int{60, 60, 60}, beyond: 180},
	{leg: tcpstate.Guest, settings: "time-wait.max=10", want: [3]int{60, 60, 60}, held: 10, beyond: 170, which: "the oldest"},
	{leg: tcpstate.Guest, settings: "time-wait.timeout=1s", hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{leg: tcpstate.Guest, settings: "time-wait.rfc1337=off", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Guest, settings: "fin-timeout=1s", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Guest, settings: "port-range=20000-20079", want: [3]int{60, 20, 0}, held: 80},
	{leg: tcpstate.Guest, note: "again to a second destination", to: secondToo, want: [3]int{40, 40, 0}, held: 80},
	{leg: tcpstate.Guest, note: "the server closes first", to: closesFirst, want: [3]int{60, 60, 60}},

	{leg: tcpstate.Stack, note: "the default", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Stack, settings: "time-wait.reuse=off", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Stack, settings: "time-wait.reuse=loopback", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Stack, settings: "time-wait.reuse=on", note: "with its delay of 1s", hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{
		leg: tcpstate.Stack, settings: "time-wait.reuse=on time-wait.reuse-delay=100ms", note: "one connection in 3 ms",
		pace: 3 * time.Millisecond, want: [3]int{60, 60, 60}, held: 40,
	},
	{leg: tcpstate.Stack, settings: "time-wait.reuse=on guest.timestamps=off", hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{leg: tcpstate.Stack, settings: "time-wait.max=0", want: [3]int{60, 60, 60}, beyond: 180},
	{leg: tcpstate.Stack, settings: "time-wait.max=10", want: [3]int{60, 60, 60}, held: 10, beyond: 170, which: "the oldest"},
	{
		leg: tcpstate.Stack, settings: "time-wait.max=10 time-wait.overflow=drop-oldest",
		want: [3]int{60, 60, 60}, held: 10, beyond: 170, which: "the newest",
	},
	{leg: tcpstate.Stack, settings: "time-wait.timeout=0", want: [3]int{60, 60, 60}},
	{leg: tcpstate.Stack, settings: "time-wait.timeout=1s", hurry: true, want: [3]int{40, 0, 40}, held: 40},
	{leg: tcpstate.Stack, settings: "time-wait.rfc1337=off", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Stack, settings: "fin-timeout=1s", want: [3]int{40, 0, 0}, held: 40},
	{leg: tcpstate.Stack, settings: "port-range=20000-20079", want: [3]int{60, 20, 0}, held: 80},
	{leg: tcpstate.Stack, note: "again to a second destination", to: secondToo, want: [3]int{40, 40, 0}, held: 80},
	{leg: tcpstate.Stack, note: "the server closes first", to: closesFirst, want: [3]int{60, 60, 60}},
}

// TestFortyPorts is the experiment with each knob of TIME-WAIT, and what is
// believed to be one. Its table is in docs/knobs.md.
func TestFortyPorts(t *testing.T) {
	got := make([]portRow, len(portRows))
	whole := t.Run("rows", func(t *testing.T) {
		for i, r := range portRows {
			t.Run(strings.Join([]string{r.leg.String(), r.settings, r.note}, " "), func(t *testing.T) {
				if !r.hurry {
					t.Parallel()
				}
				got[i] = r.measure(t)
				if got[i] != r {
					t.Errorf("%s", portTable([]portRow{got[i], r}))
				}
			})
		}
	})
	for _, r := range got {
		if whole = whole && r.leg != 0; !whole {
			return // some rows were not asked for
		}
	}
	text := portTable(got)
	t.Log("\n" + text)
	const (
		page  = "../../docs/knobs.md"
		begin = "<!-- measured by \"go test ./integration/tuning -run TestFortyPorts -update\" -->\n"
		end   = "<!-- end -->\n"
	)
	now, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(now), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for what is measured", page)
	}
	next := before + begin + text + end + after
	switch {
	case next == string(now):
	case !*update:
		t.Errorf("%s has other numbers; see: go test ./integration/tuning -run TestFortyPorts -update", page)
	default:
		if err := os.WriteFile(page, []byte(next), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func portTable(rows []portRow) string {
	var b strings.Builder
	b.WriteString("| who connects | what is set | first | again | later | in TIME-WAIT | without |\n|---|---|---:|---:|---:|---:|---:|\n")
	for _, r := range rows {
		var set []string
		for _, s := range strings.Fields(r.settings) {
			set = append(set, "`"+s+"`")
		}
		if r.note != "" {
			set = append(set, r.note)
		}
		held := strconv.Itoa(r.held)
		if r.held == uncertain {
			held = "."
		}
		if r.which != "" {
			held = r.which + " " + held
		}
		fmt.Fprintf(&b, "| %v | %s | %d | %d | %d | %s | %d |\n", r.leg, strings.Join(set, ", "), r.want[0], r.want[1], r.want[2], held, r.beyond)
	}
	return b.String()
}

// measure returns the row with what has been seen. What a machine that is too busy
// makes of it is no answer, and is asked again.
func (r portRow) measure(t *testing.T) portRow {
	t.Helper()
	for range 30 {
		got, why := r.attempt(t)
		if why == "" {
			return got
		}
		t.Logf("once more: %s", why)
	}
	t.Fatal("this machine is too busy for it")
	return r
}

// attempt is one of measure's. why is why it says nothing.
func (r portRow) attempt(t *testing.T) (got portRow, why string) {
	p := newPortBox(t, r)
	defer p.box.Close()
	got, got.want = r, [3]int{}
	began := time.Now()
	soon := func() bool { return !r.hurry || time.Since(began) < delay }

	var clients [3][]uint16
	for turn := range clients {
		if turn == 2 {
			p.box.check(p.over())
			if !soon() {
				return got, fmt.Sprintf("two turns took %v", time.Since(began))
			}
			// However long it takes, no port that may be had later has been too
			// young.
			time.Sleep(delay + delay/5)
			if strings.Contains(r.settings, "time-wait.timeout=1s") {
				p.box.eventually("the TIME-WAITs are over", func() bool { return p.held() == 0 })
			}
			began = time.Now()
		}
		to := 0
		if r.to == secondToo && turn == 1 {
			to = 1
		}
		clients[turn] = p.turn(to)
		got.want[turn] = len(clients[turn])
		if turn == 0 && r.which != "" {
			got.which = p.which(clients[0])
		}
	}
	if r.held != uncertain {
		got.held = p.settled(r.held)
	}
	got.beyond = p.beyond()
	switch {
	case !soon():
		return got, fmt.Sprintf("the last turn took %v", time.Since(began))
	case p.sentAgain() > 0:
		return got, "a segment was sent again"
	}
	return got, ""
}

// portBox is a sandbox for one attempt.
type portBox struct {
	row  portRow
	box  *box
	to   []netip.AddrPort // the destinations
	seen chan uint16      // ports of clients that a server in the guest has had

	mu   sync.Mutex
	in   map[uint16]bool // ports of the stack's that are in TIME-WAIT
	left int             // have been
}

func newPortBox(t *testing.T, r portRow) *portBox {
	t.Helper()
	leg := strings.ToLower(r.leg.String()) + "."
	settings := []string{
		leg + "port-range=20000-" + strconv.Itoa(20000+ports-1),
		// On a busy machine an ACK can come to a TIME-WAIT late, is answered, and the
		// answer by an RST, which would end the TIME-WAIT.
		leg + "time-wait.rfc1337=on",
	}
	for _, s := range strings.Fields(r.settings) {
		if !strings.HasPrefix(s, "guest.") {
			s = leg + s
		}
		settings = append(settings, s)
	}
	p := &portBox{row: r, seen: make(chan uint16, 3*times), in: make(map[uint16]bool)}
	cfg := tcpbox.Config{}
	if r.leg == tcpstate.Stack && r.which != "" {
		cfg.OnTransition = p.note
	}
	for _, s := range []string{"one=discard:80", "two=discard:80", "first=closer:80"} {
		spec, err := peer.ParseSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Peers = append(cfg.Peers, spec)
	}
	p.box = beginWith(t, cfg, settings...)
	if r.leg == tcpstate.Stack || r.to == overLoop {
		p.to = []netip.AddrPort{p.serve(80), p.serve(81)}
		return p
	}
	for _, host := range p.box.Inspect().Peers {
		p.to = append(p.to, netip.AddrPortFrom(host.Addresses[0], host.Port))
	}
	if r.to == closesFirst {
		p.to = p.to[2:]
	}
	return p
}

// serve has a server in the guest, that closes first or after its client.
func (p *portBox) serve(port uint16) netip.AddrPort {
	s := p.box.socket()
	p.box.check(unix.Bind(s.fd, &unix.SockaddrInet4{Port: int(port)}))
	p.box.check(unix.Listen(s.fd, times))
	l, err := net.FileListener(s.file)
	p.box.check(err)
	ended := make(chan struct{})
	go p.acceptAll(l, ended)
	p.box.t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return netip.AddrPortFrom(loopback, port)
}

// acceptAll serves until the listener is closed.
func (p *portBox) acceptAll(l net.Listener, ended chan<- struct{}) {
	defer close(ended)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.seen <- uint16(c.RemoteAddr().(*net.TCPAddr).Port)
		if p.row.to != closesFirst {
			_, _ = io.Copy(io.Discard, c) // its client says how it went
		}
		c.Close()
	}
}

// turn makes the connections of one turn, one after the other, and returns the
// local ports of those that stand. The others find no port.
func (p *portBox) turn(to int) (clients []uint16) {
	p.box.t.Helper()
	for range times {
		port, err := p.connect(p.to[to])
		switch {
		case err == nil:
			clients = append(clients, port)
			p.box.check(p.over())
		case !errors.Is(err, unix.EADDRNOTAVAIL):
			p.box.t.Fatal(err)
		}
		time.Sleep(p.row.pace)
	}
	return clients
}

func (p *portBox) connect(to netip.AddrPort) (port uint16, err error) {
	if p.row.leg == tcpstate.Stack {
		return p.connectStack(to)
	}
	s := p.box.socket()
	defer s.close()
	err = unix.Connect(s.fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if errors.Is(err, unix.EINPROGRESS) {
		s.await(unix.POLLOUT)
		err = s.err()
	}
	if err != nil {
		return 0, err
	}
	port = s.port()
	if p.row.to != closesFirst {
		p.box.check(unix.Shutdown(s.fd, unix.SHUT_WR))
	}
	s.await(unix.POLLIN)
	s.readToEnd()
	return port, nil
}

// await waits for an event of the socket.
func (s *sock) await(event int16) {
	s.b.t.Helper()
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: event}}
	for {
		n, err := unix.Poll(fds, 40_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			s.b.t.Fatal(err)
		case n == 0:
			s.b.t.Fatal("nothing happens to a socket of the guest")
		default:
			return
		}
	}
}

// connectStack has the stack connect to the server in the guest.
func (p *portBox) connectStack(to netip.AddrPort) (port uint16, err error) {
	c, err := p.box.Dial(p.box.t.Context(), "tcp4", fmt.Sprint(":", to.Port()))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if p.row.to != closesFirst {
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			return 0, err
		}
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return 0, err
	}
	return <-p.seen, nil
}

// over waits until no connection is left but those in TIME-WAIT: what comes next
// overtakes nothing. It waits for each connection, so it must not wait long.
func (p *portBox) over() error {
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		s := p.box.Stats()
		if s.Tracked == s.TimeWait {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the stack has %d endpoints, and %d in TIME-WAIT", s.Tracked, s.TimeWait)
		}
	}
}

// held is how many of the leg's connections are in TIME-WAIT.
func (p *portBox) held() int {
	if p.row.leg == tcpstate.Stack {
		return p.box.Stats().TimeWait
	}
	return len(p.guestHolds())
}

// settled is held when it is as many as expected, or will not be: a connection
// that has just closed may pass through TIME-WAIT also where it lasts no time.
func (p *portBox) settled(expected int) (n int) {
	for end := time.Now().Add(delay / 4); ; time.Sleep(time.Millisecond) {
		if n = p.held(); n == expected || time.Now().After(end) {
			return n
		}
	}
}

// guestHolds are the ports of the guest's connections in TIME-WAIT.
func (p *portBox) guestHolds() (held []uint16) {
	text, err := p.box.NS().ProcNet("tcp")
	p.box.check(err)
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 4 || f[3] != fmt.Sprintf("%02X", timeWait) {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		p.box.check(err)
		held = append(held, uint16(port))
	}
	return held
}

// which says whose connections are in TIME-WAIT, of those that have been made.
func (p *portBox) which(clients []uint16) string {
	var held []uint16
	if p.row.leg == tcpstate.Guest {
		held = p.guestHolds()
	} else {
		over := len(clients) - p.held()
		p.box.eventually("all transitions are told", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.left == over
		})
		held = slices.Collect(maps.Keys(p.in))
	}
	slices.Sort(held)
	n := len(held)
	switch {
	case slices.Equal(held, slices.Sorted(slices.Values(clients[:n]))):
		return "the oldest"
	case slices.Equal(held, slices.Sorted(slices.Values(clients[len(clients)-n:]))):
		return "the newest"
	}
	return fmt.Sprintf("%v of %v", held, clients)
}

// note keeps which ports of the stack's are in TIME-WAIT.
func (p *portBox) note(tr tcpbox.Transition) {
	if tr.Leg != tcpstate.Stack {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if tr.To == tcpstate.TimeWait {
		p.in[tr.Local.Port()] = true
	}
	if tr.From == tcpstate.TimeWait {
		delete(p.in, tr.Local.Port())
		p.left++
	}
}

// beyond is how many have ended without TIME-WAIT, for there were too many.
func (p *portBox) beyond() int {
	if p.row.leg == tcpstate.Stack {
		return int(p.box.Stats().TimeWaitOverflow)
	}
	return p.box.counter("TCPTimeWaitOverflow")
}

func (p *portBox) sentAgain() int {
	n := p.box.Counts().Retransmits
	p.box.check(map[bool]error{true: errors.New("the guest's kernel does not count retransmissions")}[n.Guest == nil])
	return int(*n.Guest + n.Stack)
}
