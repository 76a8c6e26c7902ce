package upstream

import (
	"io"
	"net"
	"testing"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

// BenchmarkJoin moves bytes from a client through Join to a server that throws
// them away, over the loopback. "none" is the loopback without Join.
func BenchmarkJoin(b *testing.B) {
	const chunk = 256 << 10
	run := func(b *testing.B, client, server *net.TCPConn) {
		go io.Copy(io.Discard, struct{ io.Reader }{server})
		p := make([]byte, chunk)
		b.SetBytes(chunk)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := client.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		client.Close()
	}
	b.Run("none", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer server.Close()
		run(b, client.(*net.TCPConn), server.(*net.TCPConn))
	})
	for _, g := range guests {
		b.Run(g.name, func(b *testing.B) {
			j := newJoint(b, b.Context(), g.make, relay.Options{})
			run(b, j.client, j.server)
			j.server.Close()
			<-j.done
		})
	}
}

// BenchmarkPingPong sends a byte there and back through Join.
func BenchmarkPingPong(b *testing.B) {
	j := newJoint(b, b.Context(), guests[0].make, relay.Options{})
	go func() {
		io.Copy(j.server, struct{ io.Reader }{j.server})
		j.server.Close()
	}()
	p := []byte("x")
	b.ReportAllocs()
	for b.Loop() {
		j.client.Write(p)
		if _, err := io.ReadFull(j.client, p); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	j.client.Close()
	<-j.done
}

// BenchmarkDial connects to a listener and closes; "net" is net.Dial for
// comparison.
func BenchmarkDial(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.(*net.TCPListener).AcceptTCP()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1)) // until the dialler's RST, which leaves no TIME-WAIT
			c.Close()
		}
	}()
	b.Run("host", func(b *testing.B) {
		h := &Host{}
		b.ReportAllocs()
		for b.Loop() {
			c, err := dial(b.Context(), h, l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c.Reset()
		}
	})
	b.Run("net", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
}

// BenchmarkConnection is a whole connection through Join: dial, a byte each
// way, close by the guest or by the server first.
func BenchmarkConnection(b *testing.B) {
	for _, first := range []relay.Side{relay.Guest, relay.Upstream} {
		b.Run(first.String()+" closes first", func(b *testing.B) {
			b.ReportAllocs()
			s := newSpace(b, "")
			s.sysctl("net.ipv4.tcp_max_tw_buckets", "100") // or ports run out
			l := s.listen("127.0.0.1:0")
			h := &Host{Socket: s.socket}
			defer h.Close()
			p := []byte("x")
			for b.Loop() {
				guest, client := connectTo(b, h, l)
				up, server := connectTo(b, h, l)
				done := make(chan relay.Result)
				go func() { done <- relay.Join(b.Context(), relaytest.Direct(guest), up, relay.Options{}) }()
				client.Write(p)
				io.ReadFull(server, p)
				server.Write(p)
				io.ReadFull(client, p)
				one, two := client, server
				if first == relay.Upstream {
					one, two = server, client
				}
				one.CloseWrite()
				io.ReadFull(two, p)
				two.Close()
				<-done
				one.Close()
			}
		})
	}
}
