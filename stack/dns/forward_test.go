package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	miekg "github.com/miekg/dns"
)

func TestForwardTriesTheNextResolver(t *testing.T) {
	good := func(_ context.Context, query []byte) ([]byte, error) { return replyTo(query, miekg.RcodeSuccess), nil }
	code := func(rcode int) func(context.Context, []byte) ([]byte, error) {
		return func(_ context.Context, query []byte) ([]byte, error) { return replyTo(query, rcode), nil }
	}
	broken := func(context.Context, []byte) ([]byte, error) { return nil, errors.New("connection refused") }
	silent := func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	slow := func(ctx context.Context, query []byte) ([]byte, error) {
		select {
		case <-time.After(1500 * time.Millisecond):
			return replyTo(query, miekg.RcodeSuccess), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	forged := func(change func([]byte)) func(context.Context, []byte) ([]byte, error) {
		return func(_ context.Context, query []byte) ([]byte, error) {
			reply := replyTo(query, miekg.RcodeSuccess)
			change(reply)
			return reply, nil
		}
	}
	tests := []struct {
		what          string
		first, second func(context.Context, []byte) ([]byte, error)
		rcode         int
		after         time.Duration
		outcome       Outcome
	}{
		{"the first replies", good, broken, miekg.RcodeSuccess, 0, Forwarded},
		{"the first knows that there is none", code(miekg.RcodeNameError), good, miekg.RcodeNameError, 0, Forwarded},
		{"the first is not there", broken, good, miekg.RcodeSuccess, 0, Forwarded},
		{"the first fails", code(miekg.RcodeServerFailure), good, miekg.RcodeSuccess, 0, Forwarded},
		{"the first refuses", code(miekg.RcodeRefused), good, miekg.RcodeSuccess, 0, Forwarded},
		{"the first is silent", silent, good, miekg.RcodeSuccess, stagger, Forwarded},
		{"the first is slow, the second silent", slow, silent, miekg.RcodeSuccess, 1500 * time.Millisecond, Forwarded},
		{"both are silent", silent, silent, miekg.RcodeServerFailure, DefaultQueryTimeout, Failed},
		{"neither is there", broken, broken, miekg.RcodeServerFailure, 0, Failed},
		{"one refuses, one is not there", code(miekg.RcodeRefused), broken, miekg.RcodeRefused, 0, Forwarded},
		{"another id", forged(func(r []byte) { r[0]++ }), good, miekg.RcodeSuccess, 0, Forwarded},
		{"another name", forged(func(r []byte) { r[13]++ }), good, miekg.RcodeSuccess, 0, Forwarded},
		{"another type", forged(func(r []byte) { r[len("\x07example\x03com\x00")+13]++ }), good, miekg.RcodeSuccess, 0, Forwarded},
		{"a query", forged(func(r []byte) { r[2] &^= 0x80 }), good, miekg.RcodeSuccess, 0, Forwarded},
		{"no question", forged(func(r []byte) { r[5] = 0 }), good, miekg.RcodeSuccess, 0, Forwarded},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, Config{
					Forward: twoServers,
					Exchange: func(ctx context.Context, _ string, server netip.AddrPort, query []byte) ([]byte, error) {
						if server == twoServers[0] {
							return tt.first(ctx, query)
						}
						return tt.second(ctx, query)
					},
				})
				begun := time.Now()
				r := ask(t, s, question("example.com.", miekg.TypeA), "udp")
				if r.Rcode != tt.rcode || time.Since(begun) != tt.after {
					t.Errorf("%s after %v, want %s after %v", miekg.RcodeToString[r.Rcode], time.Since(begun), miekg.RcodeToString[tt.rcode], tt.after)
				}
				if s.outcomes[tt.outcome].Load() != 1 {
					t.Errorf("Stats() = %+v, want one %v", s.Stats(), tt.outcome)
				}
			})
		})
	}
}

func TestForwardPassesTheGuestsQueryOn(t *testing.T) {
	q := question("Example.COM.", miekg.TypeHTTPS)
	q.SetEdns0(4096, true)
	raw, _ := q.Pack()
	ids := make(map[uint16]bool)
	s := newServer(t, Config{
		Forward: oneServer,
		Exchange: func(_ context.Context, _ string, _ netip.AddrPort, query []byte) ([]byte, error) {
			ids[binary.BigEndian.Uint16(query)] = true
			if !bytes.Equal(query[2:], raw[2:]) {
				t.Errorf("asked %x, want %x but for the id", query, raw)
			}
			return replyTo(query, miekg.RcodeSuccess), nil
		},
	})
	for range 100 {
		ask(t, s, q, "udp")
	}
	if len(ids) < 50 {
		t.Errorf("100 queries of one id were asked under %d ids, want them random", len(ids))
	}
}

func TestForwardKeepsToTheGuestsSize(t *testing.T) {
	s := newServer(t, Config{
		Forward: oneServer,
		Exchange: func(_ context.Context, network string, _ netip.AddrPort, query []byte) ([]byte, error) {
			return append(replyTo(query, miekg.RcodeSuccess), make([]byte, 600)...), nil
		},
	})
	q := question("example.com.", miekg.TypeA)
	if r := ask(t, s, q, "udp"); !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("a reply of over 512 bytes without EDNS: %v, want it truncated", r)
	}
	q.SetEdns0(1232, false)
	if r := ask(t, s, q, "udp"); r.Truncated || len(r.Answer) != 1 {
		t.Errorf("the same with EDNS size 1232: %v, want it whole", r)
	}
}

func TestASilentResolverIsLoggedOnce(t *testing.T) {
	var text bytes.Buffer
	fail := true
	s := newServer(t, Config{
		Forward: oneServer,
		Log:     slog.New(slog.NewTextHandler(&text, nil)),
		Exchange: func(_ context.Context, _ string, _ netip.AddrPort, query []byte) ([]byte, error) {
			if fail {
				return nil, errors.New("refused\x1b[2J")
			}
			return replyTo(query, miekg.RcodeSuccess), nil
		},
	})
	for _, f := range []bool{true, true, true, false, false, true, true} {
		fail = f
		ask(t, s, question("example.com.", miekg.TypeA), "udp")
	}
	if got := strings.Count(text.String(), "\n"); got != 2 || strings.Contains(text.String(), "\x1b") {
		t.Errorf("log:\n%s\nwant two quoted lines", text.String())
	}
}

// loopback serves reply over UDP and TCP on one port of loopback.
func loopback(t *testing.T, datagrams func(query []byte) [][]byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		buffer := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			for _, datagram := range datagrams(buffer[:n]) {
				conn.WriteTo(datagram, from)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestExchangeHostOverUDP(t *testing.T) {
	query, _ := question("example.com.", miekg.TypeA).Pack()
	want := replyTo(query, miekg.RcodeSuccess)
	server := loopback(t, func(query []byte) [][]byte {
		other := slices.Clone(want)
		other[1]++
		return [][]byte{nil, {1, 2, 3}, query, other, want}
	})
	got, err := ExchangeHost(t.Context(), "udp", server, query)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("ExchangeHost = %x, %v, want the reply among others", got, err)
	}
}

func TestExchangeHostEndsWithItsContext(t *testing.T) {
	query, _ := question("example.com.", miekg.TypeA).Pack()
	for _, end := range []string{"cancelled", "at its deadline"} {
		ctx, cancel := context.WithCancel(t.Context())
		if end == "at its deadline" {
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		}
		server := loopback(t, func([]byte) [][]byte {
			if end == "cancelled" {
				cancel()
			}
			return nil
		})
		if _, err := ExchangeHost(ctx, "udp", server, query); err == nil {
			t.Errorf("ExchangeHost with a context %s: no error", end)
		}
		cancel()
	}
}

func TestExchangeHostReportsAClosedPort(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	conn.Close()
	query, _ := question("example.com.", miekg.TypeA).Pack()
	for _, network := range []string{"udp", "tcp"} {
		if _, err := ExchangeHost(t.Context(), network, server, query); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("ExchangeHost over %s with a closed port: %v, want refused", network, err)
		}
	}
}

// The whole way on loopback: the guest's side and a resolver outside, over UDP
// and, when that is too short, over TCP.
func TestServerOnLoopback(t *testing.T) {
	// The resolver outside is a Server as well, with more names than fit.
	var many []Host
	for i := range 200 {
		many = append(many, Host{"many.example", netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})})
	}
	there := serveLoopback(t, newServer(t, Config{Hosts: many}))
	here := serveLoopback(t, newServer(t, Config{Hosts: testHosts, Forward: []netip.AddrPort{there}}))

	for _, tt := range []struct {
		network, name string
		truncated     bool
		records       int
	}{
		{"udp", "web.", false, 1},
		{"udp", "many.example.", true, 0},
		{"tcp", "many.example.", false, 200},
		{"udp", "nosuch.example.", false, 0},
	} {
		client := miekg.Client{Net: tt.network}
		r, _, err := client.Exchange(question(tt.name, miekg.TypeA), here.String())
		if err != nil || r.Truncated != tt.truncated || len(r.Answer) != tt.records {
			t.Errorf("%s over %s: %d records, truncated %v, %v, want %d, %v", tt.name, tt.network, len(r.Answer), r.Truncated, err, tt.records, tt.truncated)
		}
	}
}

// serveLoopback serves s over UDP and TCP on one port of loopback until the
// test ends.
func serveLoopback(t *testing.T, s *Server) netip.AddrPort {
	t.Helper()
	var conn net.PacketConn
	var ln net.Listener
	for try := 0; ; try++ {
		var err error
		if conn, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", conn.LocalAddr().String()); err == nil {
			break
		}
		conn.Close()
		if try == 10 {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.ServePacket(ctx, conn) }()
	go func() { ended <- s.ServeStream(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("serve: %v, want nil when the context ends", err)
			}
		}
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// FuzzMessage gives any bytes of a guest to a server, and any bytes of a
// resolver to a guest.
func FuzzMessage(f *testing.F) {
	plain, _ := question("example.com.", miekg.TypeA).Pack()
	host, _ := question("web.", miekg.TypeANY).Pack()
	q := question("_443._tcp.web.", miekg.TypeTLSA)
	q.SetEdns0(1232, true)
	edns, _ := q.Pack()
	reverse, _ := question("16.0.18.198.in-addr.arpa.", miekg.TypePTR).Pack()
	for _, seed := range [][]byte{plain, host, edns, reverse, plain[:12], {}, bytes.Repeat([]byte{0xc0, 0x0c}, 40)} {
		f.Add(seed, replyTo(plain, miekg.RcodeSuccess), false)
		f.Add(seed, seed, true)
	}
	f.Fuzz(func(t *testing.T, raw, reply []byte, stream bool) {
		network := "udp"
		if stream {
			network = "tcp"
		}
		s := newServer(t, Config{
			Hosts: testHosts, Local: testLocal, Forward: twoServers,
			OnQuery: func(Query) {},
			Exchange: func(_ context.Context, _ string, server netip.AddrPort, query []byte) ([]byte, error) {
				reply := slices.Clone(reply)
				if server == twoServers[1] && len(reply) > 2 {
					copy(reply, query[:2])
				}
				return reply, nil
			},
		})
		got := respond(s, slices.Clone(raw), network)
		if got == nil {
			return
		}
		if len(got) < headerBytes || !bytes.Equal(got[:2], raw[:2]) || got[2]&0x80 == 0 {
			t.Errorf("the reply to %x is %x", raw, got)
		}
		if stats := s.Stats(); stats.Answered+stats.Forwarded+stats.Refused+stats.Failed+stats.Malformed != 1 {
			t.Errorf("Stats() = %+v after one message", stats)
		}
	})
}
