package netstack

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/tun"
	"tcpbox/tun/packet"
)

// slowSYNACK is a device whose Write of a SYN-ACK returns late.
type slowSYNACK struct {
	tun.Device
	written, goOn chan struct{}
}

func (d *slowSYNACK) Write(bufs [][]byte, h tun.Offload) error {
	var whole []byte
	for _, b := range bufs {
		whole = append(whole, b...)
	}
	err := d.Device.Write(bufs, h)
	if p, perr := packet.Parse(whole); perr == nil && p.Proto == packet.TCP && p.TCP.Flags == synAck {
		d.written <- struct{}{}
		<-d.goOn
	}
	return err
}

// TestEarlyAnswer: what the guest answers to a SYN-ACK whose write has not
// returned is not given to gVisor's processor, which would spin on it, but is not
// lost either. Others are not kept from going on.
func TestEarlyAnswer(t *testing.T) {
	slow := &slowSYNACK{written: make(chan struct{}), goOn: make(chan struct{})}
	g := newRawGuest(t, func(cfg *Config) {
		slow.Device = cfg.Device
		cfg.Device = slow
	})
	c := g.conn(1000)
	c.syn()
	req := g.request()
	conns, errs := make(chan *Conn, 1), make(chan error, 1)
	go func() {
		conn, err := req.Accept()
		conns <- conn
		errs <- err
	}()
	<-slow.written
	received := g.gateway.ns.Stats().TCP.ValidSegmentsReceived
	before := received.Value()
	c.expect(synAck)
	c.send(ackFl, "")
	c.send(ackFl|packet.PSH, "early")
	c.send(ackFl|packet.PSH, " and late")
	c.send(ackFl|packet.FIN, "")
	g.ping(t) // so all of them have been read
	if n := received.Value() - before; n != 0 {
		t.Errorf("%d segments were given to an endpoint that is locked", n)
	}
	close(slow.goOn)
	conn := <-conns
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || string(text) != "early and late" {
		t.Errorf("read %q, %v", text, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "nothing is kept any more", func() bool { return g.gateway.link.early.writing.Load() == 0 })
}

// TestEarlyOrder: what is kept is handed over in its order, also what comes while
// that is done; what is of others is not kept, nor what is too much.
func TestEarlyOrder(t *testing.T) {
	segment := func(port uint16, payload string) *buffer.View {
		return buffer.NewViewWithData(packet.Build{
			Src: netip.AddrPortFrom(guestAddr, port), Dst: serverAddr, Flags: packet.ACK, Payload: []byte(payload),
		}.Bytes())
	}
	payload := func(v *buffer.View) string {
		_, text, _ := strings.Cut(string(v.AsSlice()), ":")
		return text
	}
	id := gvstack.TransportEndpointID{
		LocalAddress: toAddr(serverAddr.Addr()), LocalPort: serverAddr.Port(), RemoteAddress: toAddr(guestAddr), RemotePort: 1,
	}
	var e early
	if e.keep(segment(1, ":0")) {
		t.Error("something is kept though nothing is written")
	}
	if !e.begin(id) || e.begin(id) {
		t.Error("it begins twice, or not at all")
	}
	if e.keep(segment(2, ":other")) {
		t.Error("another connection's is kept")
	}
	if e.keep(buffer.NewViewWithData([]byte{0x45})) {
		t.Error("what is no packet is kept")
	}
	for i := range mostEarly {
		if !e.keep(segment(1, fmt.Sprint(":", i))) {
			t.Errorf("segment %d is not kept", i)
		}
	}
	if e.keep(segment(1, ":more")) {
		t.Error("more is kept than may be")
	}
	if e.end(id) {
		t.Error("it ends with something kept")
	}
	var got []string
	e.handOver(id, func(v *buffer.View) {
		if got = append(got, payload(v)); len(got) == 3 && !e.keep(segment(1, ":while")) {
			t.Error("what comes while the others are handed over overtakes them")
		}
	})
	want := make([]string, 0, mostEarly+1)
	for i := range mostEarly {
		want = append(want, fmt.Sprint(i))
	}
	if want = append(want, "while"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("handed over %v, want %v", got, want)
	}
	if e.keep(segment(1, ":after")) || len(e.held) != 0 {
		t.Error("something is kept after the write")
	}
	if !e.begin(id) || !e.end(id) || e.writing.Load() != 0 {
		t.Error("one that nobody answers early does not end")
	}
}
