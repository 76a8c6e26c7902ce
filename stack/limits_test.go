package stack

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"tcpbox/policy/knob"
	"tcpbox/stack/internal/netstack"
	"tcpbox/tun/packet"
)

// lockedBuffer is a buffer that a log writes to from many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestConnectionsLimit: the guest has as many connections as the limit lets it;
// a SYN beyond is dropped, counted and told of, and a connection that ends makes
// room. A limit can be changed meanwhile.
func TestConnectionsLimit(t *testing.T) {
	u, far := pipes(0)
	log := &lockedBuffer{}
	g, guest := withGuest(t, u, func(c *Config) {
		c.Limits.Connections = 3
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	var conns []*netstack.Conn
	for range 3 {
		conns = append(conns, mustDial(t, guest, server))
		<-far
	}
	fourth := make(chan error, 1)
	go func() {
		c, err := guest.Dial(testContext(t), 0, netip.AddrPortFrom(guestAddr, 0), server)
		if err == nil {
			err = c.Reset()
		}
		fourth <- err
	}()
	eventually(t, "a SYN beyond the limit was dropped", func() bool { return g.Stats().Limited > 0 })
	eventually(t, "three connections were open", func() bool { return g.Stats().Open == 3 })
	if n := u.dials(); n != 3 {
		t.Errorf("%d connections were dialled, want 3", n)
	}
	eventually(t, "somebody was told", func() bool { return strings.Contains(log.String(), "as many connections as its limit") })
	conns[0].Reset()
	if err := <-fourth; err != nil { // its SYN is sent again
		t.Errorf("the fourth, with room: %v", err)
	}

	eventually(t, "the fourth had ended", func() bool { return g.Stats().Open == 2 })
	g.SetLimits(Limits{Connections: 5})
	for range 3 {
		mustDial(t, guest, server)
	}
	eventually(t, "five connections were open under a limit of five", func() bool { return g.Stats().Open == 5 })
}

// TestBuffersLimit: a connection counts with what its buffers may hold when it
// begins; a SYN beyond the limit is dropped, counted and told of, and a connection
// that ends makes room.
func TestBuffersLimit(t *testing.T) {
	u, far := pipes(0)
	log := &lockedBuffer{}
	g, guest := withGuest(t, u, func(c *Config) {
		c.Limits.Buffers = 3 << 20
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	apply := func(text string) {
		t.Helper()
		s, err := knob.ParseSetting(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Apply([]knob.Setting{s}); err != nil {
			t.Fatal(err)
		}
	}
	apply("stack.receive-buffer=512k")
	apply("stack.send-buffer=64k-512k")
	var conns []*netstack.Conn
	for range 3 { // 1 MiB each
		conns = append(conns, mustDial(t, guest, server))
		<-far
	}
	fourth := make(chan error, 1)
	go func() {
		c, err := guest.Dial(testContext(t), 0, netip.AddrPortFrom(guestAddr, 0), server)
		if err == nil {
			err = c.Reset()
		}
		fourth <- err
	}()
	eventually(t, "a SYN beyond the limit was dropped", func() bool { return g.Stats().Unbuffered > 0 })
	eventually(t, "somebody was told", func() bool { return strings.Contains(log.String(), "bytes=3145728 bytes_each=1048576 dropped=1") })
	if st := g.Stats(); st.Limited != 0 {
		t.Errorf("%d SYNs were beyond the limit of connections, want 0", st.Limited)
	}
	conns[0].Reset()
	if err := <-fourth; err != nil { // its SYN is sent again
		t.Errorf("the fourth, with room: %v", err)
	}
	eventually(t, "two connections were left", func() bool { return g.Stats().Open == 2 })

	apply("stack.send-buffer=64k-128k") // what is open keeps its share
	mustDial(t, guest, server)
	eventually(t, "the third was open", func() bool { return g.Stats().Open == 3 })
	for _, c := range conns[1:] {
		c.Reset()
	}
	eventually(t, "two had ended", func() bool { return g.Stats().Open == 1 })
	for range 3 {
		mustDial(t, guest, server) // 640 KiB each
	}
	eventually(t, "four were open", func() bool { return g.Stats().Open == 4 })
	g.SetLimits(Limits{})
	for range 3 {
		mustDial(t, guest, server)
	}
	eventually(t, "there were seven without a limit", func() bool { return g.Stats().Open == 7 })
	eventually(t, "every connection was counted", func() bool { return g.limits.held.Load() == 7*640<<10 })
}

// TestConnectionsLimitIsAFlood: SYNs beyond the limit of connections are part of
// a flood, which the log and the counters tell.
func TestConnectionsLimitIsAFlood(t *testing.T) {
	u, far := pipes(0)
	log := &lockedBuffer{}
	g, guest := withGuest(t, u, func(c *Config) {
		c.Limits.Connections = 1
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	flood, err := knob.ParseSetting("stack.syn-flood=1")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply([]knob.Setting{flood}); err != nil {
		t.Fatal(err)
	}
	mustDial(t, guest, server)
	<-far
	ctx, cancel := context.WithCancel(t.Context())
	var dials sync.WaitGroup
	for range 100 {
		dials.Go(func() {
			if c, err := guest.Dial(ctx, 0, netip.AddrPortFrom(guestAddr, 0), server); err == nil {
				t.Error("a connection beyond the limit was made")
				_ = c.Reset()
			}
		})
	}
	eventually(t, "a flood was counted", func() bool { return g.Stats().SYNFloods == 1 })
	eventually(t, "a flood was told of", func() bool { return strings.Contains(log.String(), "a flood of SYNs began") })
	cancel()
	dials.Wait()
}

// TestFlowsLimitLive: fewer flows are let be from the next one on.
func TestFlowsLimitLive(t *testing.T) {
	u := newPacketUplink()
	log := &lockedBuffer{}
	g, rec := withPackets(t, u, func(c *Config) {
		c.Limits.Flows = 8
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	send := func(port uint16) { // a flow of its own
		t.Helper()
		if err := rec.Send(packet.Build{Proto: packet.UDP, Src: netip.AddrPortFrom(guestAddr, port), Dst: server, Payload: []byte("x")}.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint16(8) {
		send(1000 + i)
	}
	eventually(t, "eight flows were open", func() bool { return g.Stats().Flows == 8 })
	g.SetLimits(Limits{Flows: 2})
	send(2000)
	eventually(t, "two flows were left", func() bool { return g.Stats().Flows == 2 })
	if n := g.Stats().FlowsEvicted; n != 7 {
		t.Errorf("%d flows gave way, want 7", n)
	}
	eventually(t, "somebody was told", func() bool { return strings.Contains(log.String(), "as many flows of UDP and ping as its limit") })
}
