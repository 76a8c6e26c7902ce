package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// tuned is a row of TestTunings: settings, and how a host socket behaves without
// them, and with them.
type tuned struct {
	settings    []string
	plain, want string

	// observe says how the connection behaves, whose other end is peer. set says
	// that the settings are in force: what takes long is waited for only then.
	observe func(s *space, c *Conn, peer *net.TCPConn, set bool) string

	stays bool // a connection that is there does not follow
}

func (r tuned) parse(t *testing.T) []knob.Setting {
	t.Helper()
	var settings []knob.Setting
	for _, text := range r.settings {
		s, err := knob.ParseSetting("upstream." + text)
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, s)
	}
	return settings
}

var tunedRows = []tuned{
	{
		settings: []string{"keepalive=on", "keepalive.idle=1s", "keepalive.interval=1s", "keepalive.count=2"},
		plain:    "open", want: "ETIMEDOUT",
		observe: func(s *space, c *Conn, peer *net.TCPConn, set bool) string {
			deafen(s.t, peer)
			if set {
				return errnoOf(c.Read(make([]byte, 1)))
			}
			if n, err := optionOf(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || n != 0 {
				return fmt.Sprint(n, err)
			}
			return "open"
		},
	},
	{
		settings: []string{"user-timeout=1s"}, plain: "it is sent 5 times", want: "ETIMEDOUT",
		observe: func(s *space, c *Conn, peer *net.TCPConn, set bool) string {
			deafen(s.t, peer)
			if _, err := c.Write([]byte("hello")); err != nil {
				return err.Error()
			}
			if set {
				return errnoOf(c.Read(make([]byte, 1)))
			}
			eventually(s.t, "it is sent five times", func() bool { return infoOf(s.t, c).Total_retrans >= 4 })
			return "it is sent 5 times"
		},
	},
	{
		settings: []string{"rto.max=1s"}, plain: "it doubles beyond", want: "a second",
		observe: func(s *space, c *Conn, peer *net.TCPConn, _ bool) string {
			deafen(s.t, peer)
			if _, err := c.Write([]byte("hello")); err != nil {
				return err.Error()
			}
			eventually(s.t, "it is sent five times", func() bool { return infoOf(s.t, c).Total_retrans >= 4 })
			if infoOf(s.t, c).Rto > 1_000_000 {
				return "it doubles beyond"
			}
			return "a second"
		},
	},
	{
		settings: []string{"rto.min=20ms"}, plain: "200 ms and more", want: "less",
		observe: func(s *space, c *Conn, peer *net.TCPConn, _ bool) string {
			least := uint32(1 << 31)
			for range 50 { // a busy machine measures a long one now and then
				if _, err := c.Write([]byte("hello")); err != nil {
					return err.Error()
				}
				if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil {
					return err.Error()
				}
				eventually(s.t, "it is acknowledged", func() bool { return infoOf(s.t, c).Unacked == 0 })
				least = min(least, infoOf(s.t, c).Rto)
			}
			if least < 200_000 {
				return "less"
			}
			return "200 ms and more"
		},
	},
	{
		settings: []string{"congestion-control=reno"}, plain: "the default", want: "reno",
		observe: func(s *space, c *Conn, _ *net.TCPConn, set bool) string {
			var name string
			if err := c.control("get", func(fd int) (err error) {
				name, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
				return err
			}); err != nil {
				return err.Error()
			}
			if usual := s.congestion(); !set && name == usual {
				return "the default"
			}
			return name
		},
	},
	{
		settings: []string{"mss=500"}, plain: "more than 500", want: "at most 500", stays: true,
		observe: func(s *space, c *Conn, peer *net.TCPConn, _ bool) string {
			// What the peer sends at most, and what this end does.
			theirs, ours := infoOf(s.t, peerConn{peer}).Snd_mss, infoOf(s.t, c).Snd_mss
			if theirs <= 500 && ours <= 500 {
				return "at most 500"
			}
			if theirs > 500 && ours > 500 {
				return "more than 500"
			}
			return fmt.Sprint(theirs, ours)
		},
	},
	{
		settings: []string{"receive-buffer=16k"}, plain: "more than 16k", want: "at most 16k", stays: true,
		observe: func(s *space, c *Conn, peer *net.TCPConn, _ bool) string {
			_ = peer.SetWriteDeadline(time.Now().Add(10 * time.Second))
			var wrote sync.WaitGroup
			wrote.Go(func() { _, _ = peer.Write(make([]byte, 8<<20)) })
			eventually(s.t, "much has come, or the window is shut", func() bool {
				in := infoOf(s.t, peerConn{peer})
				return queued(c, unix.SIOCINQ) > 16<<10 || in.Notsent_bytes > 0 && in.Unacked == 0 || in.Probes > 0
			})
			n := queued(c, unix.SIOCINQ)
			_ = peer.SetWriteDeadline(time.Now())
			wrote.Wait()
			if n > 16<<10 {
				return "more than 16k"
			}
			return "at most 16k"
		},
	},
	{
		settings: []string{"send-buffer=16k"}, plain: "more than 200k", want: "less", stays: true,
		observe: func(s *space, c *Conn, peer *net.TCPConn, _ bool) string {
			deafen(s.t, peer)
			total := 0
			for {
				n, err := c.TryWrite(make([]byte, 1<<10))
				if n == 0 || err != nil {
					break
				}
				total += n
			}
			if total > 200<<10 {
				return "more than 200k"
			}
			return "less"
		},
	},
	{
		settings: []string{"port-range=40000-40009"}, plain: "elsewhere", want: "within", stays: true,
		observe: func(_ *space, c *Conn, _ *net.TCPConn, _ bool) string {
			if p := c.LocalAddr().Port(); p >= 40000 && p <= 40009 {
				return "within"
			}
			return "elsewhere"
		},
	},
	{
		settings: []string{"fin-timeout=1s"}, plain: "held", want: "ended",
		observe: func(s *space, c *Conn, _ *net.TCPConn, set bool) string {
			c.Close()
			eventually(s.t, "it is in FIN-WAIT-2", func() bool { return s.inFinWait2(c.LocalAddr()) })
			if !set {
				return "held"
			}
			eventually(s.t, "it has left FIN-WAIT-2", func() bool { return !s.inFinWait2(c.LocalAddr()) })
			return "ended"
		},
	},
	{
		settings: []string{"linger=reset"}, plain: "FIN", want: "RST",
		observe: func(_ *space, c *Conn, peer *net.TCPConn, _ bool) string {
			c.Close()
			switch _, err := peer.Read(make([]byte, 1)); {
			case err == io.EOF:
				return "FIN"
			case errors.Is(err, unix.ECONNRESET):
				return "RST"
			default:
				return err.Error()
			}
		},
	},
}

// TestTunings has each row three times: for a connection made with the settings;
// for one that stood when they were applied; and for one made after that.
func TestTunings(t *testing.T) {
	shown := make(map[string]bool)
	for _, r := range tunedRows {
		for _, s := range r.parse(t) {
			shown[s.Key] = true
		}
		t.Run(r.settings[0], func(t *testing.T) {
			t.Parallel()
			s := newSpace(t, "")
			l := s.listen("127.0.0.1:80")
			h := &Host{Socket: s.socket}
			if o := h.Plan(r.parse(t))[0]; !o.Applied {
				if !strings.Contains(o.Text, "this kernel has no") {
					t.Fatal(o)
				}
				t.Skip(o)
			}
			join := func(h *Host) (*Conn, *net.TCPConn) {
				t.Helper()
				c, err := dial(t.Context(), h, "127.0.0.1:80")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				peer, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { peer.Close() })
				return c, peer.(*net.TCPConn)
			}
			apply := func(h *Host) {
				if err := h.Apply(r.parse(t)); err != nil {
					t.Fatal(err)
				}
			}
			tell := func(when string, h *Host, set bool, want string) func() {
				c, peer := join(h)
				return func() {
					t.Run(when, func(t *testing.T) {
						t.Parallel()
						here := &space{t: t, work: s.work}
						if got := r.observe(here, c, peer, set); got != want {
							t.Errorf("%s, want %s", got, want)
						}
					})
				}
			}

			without := tell("without them", &Host{Socket: s.socket}, false, r.plain)
			follows := r.want
			if r.stays {
				follows = r.plain
			}
			there := tell("a connection that was there", h, true, follows)
			apply(h)
			after := tell("a connection made after", h, true, r.want)
			first := &Host{Socket: s.socket}
			apply(first)
			with := tell("a connection made with them", first, true, r.want)
			for _, run := range []func(){without, there, after, with} {
				run()
			}
		})
	}
	for _, d := range knob.Table() {
		if d.Upstream.Carries && !shown[d.Key] {
			t.Errorf("no row shows upstream.%s", d.Key)
		}
	}
}

// A dial is given up when the user timeout is over.
func TestUserTimeoutEndsADial(t *testing.T) {
	s := newSpace(t, "")
	h := &Host{Socket: s.socket}
	l, err := h.Bind(netip.MustParseAddrPort("127.0.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	filter(t, l.raw)
	if err := h.Apply(tuned{settings: []string{"user-timeout=1s"}}.parse(t)); err != nil {
		t.Fatal(err)
	}
	if c, err := dial(t.Context(), h, "127.0.0.1:80"); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("DialTCP() = %v, %v, want ETIMEDOUT", c, err)
	}
}

// A TIME-WAIT is the kernel's before anybody can close the socket.
func TestLingerLeavesTimeWait(t *testing.T) {
	s := newSpace(t, "")
	l := s.listen("127.0.0.1:80")
	h := &Host{Socket: s.socket}
	if err := h.Apply(tuned{settings: []string{"linger=reset"}}.parse(t)); err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), h, "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantRead(t, peer, "", nil)
	peer.Close()
	wantRead(t, c, "", nil)
	c.Close()
	if !strings.Contains(s.procNet("tcp"), fmt.Sprintf(":%04X 0100007F:0050 06 ", c.LocalAddr().Port())) {
		t.Errorf("there is no TIME-WAIT:\n%s", s.procNet("tcp"))
	}
}

// If one setting cannot be, no socket has any of them.
func TestApplyIsAllOrNothing(t *testing.T) {
	h := &Host{}
	c, _ := pair(t, h)
	defer c.Close()
	settings := tuned{settings: []string{"keepalive=on", "congestion-control=none-such"}}.parse(t)
	if err := h.Apply(settings); err == nil || !strings.Contains(err.Error(), "none-such") {
		t.Errorf("Apply() = %v, want that it names what cannot be", err)
	}
	if n, err := optionOf(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || n != 0 {
		t.Errorf("SO_KEEPALIVE = %d, %v", n, err)
	}
	// Where a socket refuses what the trial has taken, all get back what they had.
	h.knobs.mu.Lock()
	h.knobs.conns[&Conn{host: h, raw: refusing{}}] = struct{}{}
	h.knobs.mu.Unlock()
	if err := h.Apply(settings[:1]); !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("Apply() = %v, want %v", err, unix.ENOBUFS)
	}
	if n, err := optionOf(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || n != 0 {
		t.Errorf("after a refusal SO_KEEPALIVE = %d, %v", n, err)
	}
	d, _ := pair(t, h)
	defer d.Close()
	if n, err := optionOf(d, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || n != 0 {
		t.Errorf("SO_KEEPALIVE of a new one = %d, %v", n, err)
	}
}

// refusing is a socket that takes no option.
type refusing struct{ syscall.RawConn }

func (refusing) Control(func(uintptr)) error { return unix.ENOBUFS }

// What a published port accepts follows too, whenever it came.
func TestListenersAreTuned(t *testing.T) {
	s := newSpace(t, "")
	h := &Host{Socket: s.socket}
	l, err := h.Bind(netip.MustParseAddrPort("127.0.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	guests := &Host{Socket: s.socket}
	connect := func() {
		t.Helper()
		c, err := dial(t.Context(), guests, "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	connect() // waits to be accepted
	if err := h.Apply(tuned{settings: []string{"keepalive=on", "mss=500"}}.parse(t)); err != nil {
		t.Fatal(err)
	}
	connect()
	var mss []uint32
	for range 2 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n, err := optionOf(c, unix.SOL_SOCKET, unix.SO_KEEPALIVE); err != nil || n != 1 {
			t.Errorf("SO_KEEPALIVE = %d, %v", n, err)
		}
		mss = append(mss, infoOf(t, c).Snd_mss)
	}
	if mss[0] <= 500 || mss[1] > 500 {
		t.Errorf("segments of %d bytes, want more than 500 for the first and no more for the second", mss)
	}
}

// Each connection has the last settings, whenever it was made.
func TestNoConnectionMissesAChange(t *testing.T) {
	s := newSpace(t, "")
	l := s.listen("127.0.0.1:80")
	h := &Host{Socket: s.socket}
	var mu sync.Mutex
	var conns []*Conn
	var dialling sync.WaitGroup
	for range 4 {
		dialling.Go(func() {
			for range 25 {
				c, err := dial(t.Context(), h, "127.0.0.1:80")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	for n := 1; n <= 50; n++ {
		if err := h.Apply([]knob.Setting{{Key: "keepalive.count", Leg: tcpstate.Upstream, Int: n}}); err != nil {
			t.Fatal(err)
		}
	}
	dialling.Wait()
	for _, c := range conns {
		if n, err := optionOf(c, unix.IPPROTO_TCP, unix.TCP_KEEPCNT); err != nil || n != 50 {
			t.Errorf("TCP_KEEPCNT = %d, %v", n, err)
		}
		c.Close()
	}
	h.knobs.mu.Lock()
	defer h.knobs.mu.Unlock()
	if n := len(h.knobs.conns); n != 0 {
		t.Errorf("%d connections are kept that were closed", n)
	}
}

// What the host does not allow is told before anything starts.
func TestPlanTriesTheHost(t *testing.T) {
	s := newSpace(t, "")
	s.sysctl("net.ipv4.ip_local_port_range", "50000 50999")
	h := &Host{Socket: s.socket}
	for setting, want := range map[string]string{
		"port-range=50000-50999":       "",
		"port-range=49999-50999":       "port 49999 is outside net.ipv4.ip_local_port_range",
		"port-range=50000-51000":       "port 51000 is outside net.ipv4.ip_local_port_range",
		"congestion-control=none-such": "has reno",
		"receive-buffer=1G":            "net.core.rmem_max of the host allows",
		"send-buffer=1G":               "net.core.wmem_max of the host allows",
		"rto.min=500ms":                "at most 200ms",
		"syn-retries=3":                "as long as the guest goes on asking",
	} {
		o := h.Plan(tuned{settings: []string{setting}}.parse(t))[0]
		if o.Applied != (want == "") || !strings.Contains(o.Text, want) && !strings.Contains(o.Text, "this kernel has no") {
			t.Errorf("Plan(%s) = %v, want %q", setting, o, want)
		}
	}
}

// peerConn makes a connection of the test's one of which infoOf can be asked.
type peerConn struct{ *net.TCPConn }

func (p peerConn) control(_ string, f func(fd int) error) error {
	raw, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// infoOf is what TCP_INFO says of a connection.
func infoOf(t testing.TB, c interface {
	control(op string, f func(fd int) error) error
},
) (info *unix.TCPInfo) {
	t.Helper()
	if err := c.control("info", func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return info
}

// deafen makes a socket hear nothing any more.
func deafen(t testing.TB, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	filter(t, raw)
}

// filter drops each segment for a socket.
func filter(t testing.TB, raw syscall.RawConn) {
	t.Helper()
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

func errnoOf(_ int, err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprint(err)
}

// congestion is the namespace's default algorithm.
func (s *space) congestion() string {
	var b []byte
	var err error
	s.do(func() { b, err = os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") })
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
