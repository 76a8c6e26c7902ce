package view

import (
	"time"

	"tcpbox/stack/sim"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// plays are the connections whose ladders are kept as pictures.
var plays = []struct {
	name string
	run  func(p *play)
}{
	{"the guest closes first", func(p *play) {
		p.open()
		p.client.Close()
		p.hop(guest, finAck)
		p.state(stack, tcpstate.CloseWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.FinWait2)
		p.serve.Close()
		p.hop(stack, finAck)
		p.state(guest, tcpstate.TimeWait)
		p.hop(guest, ack)
		p.state(stack, tcpstate.Closed)
		p.later(time.Minute, guest, tcpstate.Closed)
	}},
	{"the stack closes first", func(p *play) {
		p.open()
		p.stackCloses()
		p.client.Close()
		p.hop(guest, finAck)
		p.state(stack, tcpstate.TimeWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.Closed)
	}},
	{"half-close", func(p *play) {
		p.open()
		p.client.CloseWrite()
		p.hop(guest, finAck)
		p.state(stack, tcpstate.CloseWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.FinWait2)
		p.serve.Write(make([]byte, 500))
		p.hop(stack, ack)
		p.read(p.client, 500)
		p.hop(guest, ack)
		p.serve.Close()
		p.hop(stack, finAck)
		p.state(guest, tcpstate.TimeWait)
		p.hop(guest, ack)
		p.state(stack, tcpstate.Closed)
	}},
	{"simultaneous open", func(p *play) {
		a := p.dial(guest)
		one := p.hold(guest, syn)
		b := p.dial(stack)
		two := p.hold(stack, syn)
		one.Deliver()
		p.state(stack, tcpstate.SynReceived)
		two.Deliver()
		p.state(guest, tcpstate.SynReceived)
		// Each answers the other's SYN-ACK, whose number it knows, by an ACK.
		p.hop(guest, synAck)
		p.sent(stack, 2) // SYN-ACK, and that ACK
		p.hop(stack, synAck)
		p.sent(guest, 1)
		p.hop(stack, ack)
		p.state(guest, tcpstate.Established)
		p.hop(guest, ack)
		p.state(stack, tcpstate.Established)
		<-a
		<-b
	}},
	{"simultaneous close", func(p *play) {
		p.open()
		p.client.Close()
		one := p.hold(guest, finAck)
		p.serve.Close()
		two := p.hold(stack, finAck)
		one.Deliver()
		p.state(stack, tcpstate.Closing)
		two.Deliver()
		p.state(guest, tcpstate.Closing)
		p.hop(guest, ack)
		p.state(stack, tcpstate.TimeWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.TimeWait)
	}},
	{"lost final ACK", func(p *play) {
		p.open()
		p.client.Close()
		p.hop(guest, finAck)
		p.state(stack, tcpstate.CloseWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.FinWait2)
		p.serve.Close()
		p.hop(stack, finAck)
		p.state(guest, tcpstate.TimeWait)
		p.lose(guest, ack)
		p.again(200*time.Millisecond, stack, finAck).Deliver()
		p.hop(guest, ack)
		p.state(stack, tcpstate.Closed)
	}},
	{"merged FIN+ACK", func(p *play) {
		p.open()
		p.merge()
	}},
	{"retransmitted SYN", func(p *play) {
		dialled := p.dial(guest)
		p.lose(guest, syn)
		p.again(time.Second, guest, syn).Lose()
		p.again(2*time.Second, guest, syn).Deliver()
		accepted := p.accept(stack)
		p.hop(stack, synAck)
		p.state(guest, tcpstate.Established)
		p.hop(guest, ack)
		<-dialled
		<-accepted
		p.state(stack, tcpstate.Established)
	}},
	{"no answer", func(p *play) {
		dialled := p.dial(guest)
		p.lose(guest, syn)
		for n := range 6 {
			p.again(time.Second<<n, guest, syn).Lose()
		}
		p.later(64*time.Second, guest, tcpstate.Closed)
		<-dialled
	}},
	{"keepalive death", func(p *play) {
		p.open()
		p.client.SetKeepAlive(30*time.Second, 10*time.Second, 3)
		p.again(30*time.Second, guest, ack).Lose()
		p.again(10*time.Second, guest, ack).Lose()
		p.again(10*time.Second, guest, ack).Lose()
		p.later(15*time.Second, guest, tcpstate.Closed)
	}},
	{"response of several segments", func(p *play) {
		p.open()
		p.client.Write(make([]byte, 83))
		p.hop(guest, ack)
		p.read(p.serve, 83)
		p.hop(stack, ack)
		p.serve.Write(make([]byte, 4000))
		for range 3 {
			p.hop(stack, ack)
			p.hop(guest, ack)
		}
		p.read(p.client, 4000)
		p.merge()
	}},
	{"lost data", func(p *play) {
		p.open()
		p.serve.Write(make([]byte, 2000))
		p.lose(stack, ack)
		p.hop(stack, ack)
		gap := p.hold(guest, ack) // it says what is missing, late
		p.again(200*time.Millisecond, stack, ack).Deliver()
		p.sent(guest, 2)
		gap.Deliver()
		p.read(p.client, 2000)
		p.hop(guest, ack)
	}},

	// RST in each state.
	{"refused", func(p *play) {
		dialled := p.dial(guest)
		p.hop(guest, syn)
		r, err := p.n.Stack.Request(p.ctx)
		p.must(err)
		r.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
		<-dialled
	}},
	{"RST in SYN-RECEIVED", func(p *play) {
		dialled := p.dial(guest)
		p.hop(guest, syn)
		accepted := p.accept(stack)
		p.hop(stack, synAck)
		client := <-dialled
		p.lose(guest, ack)
		client.Reset()
		p.hop(guest, rstAck)
		p.state(stack, tcpstate.Closed)
		<-accepted
	}},
	{"RST in ESTABLISHED", func(p *play) {
		p.open()
		p.serve.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
	}},
	{"RST in FIN-WAIT-1", func(p *play) {
		p.open()
		p.client.CloseWrite()
		p.lose(guest, finAck)
		p.serve.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
	}},
	{"RST in FIN-WAIT-2 and CLOSE-WAIT", func(p *play) {
		p.open()
		p.stackCloses()
		p.client.Reset()
		p.hop(guest, rstAck)
		p.state(stack, tcpstate.Closed)
	}},
	{"RST in CLOSE-WAIT", func(p *play) {
		p.open()
		p.stackCloses()
		p.serve.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
	}},
	{"RST in CLOSING", func(p *play) {
		p.open()
		p.client.CloseWrite()
		one := p.hold(guest, finAck)
		p.serve.CloseWrite()
		two := p.hold(stack, finAck)
		one.Deliver()
		p.state(stack, tcpstate.Closing)
		two.Deliver()
		p.state(guest, tcpstate.Closing)
		p.lose(guest, ack)
		p.lose(stack, ack)
		p.serve.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
	}},
	{"RST in LAST-ACK", func(p *play) {
		p.open()
		p.stackCloses()
		p.client.Close()
		p.lose(guest, finAck)
		p.serve.Reset()
		p.hop(stack, rstAck)
		p.state(guest, tcpstate.Closed)
	}},
	{"RST in TIME-WAIT", func(p *play) {
		p.open()
		p.client.Close()
		p.hop(guest, finAck)
		p.state(stack, tcpstate.CloseWait)
		p.hop(stack, ack)
		p.state(guest, tcpstate.FinWait2)
		p.serve.Close()
		fin := p.hold(stack, finAck)
		fin.Deliver()
		p.state(guest, tcpstate.TimeWait)
		p.hop(guest, ack)
		p.state(stack, tcpstate.Closed)
		p.inject(packet.Build{Src: fin.Packet.Src, Dst: fin.Packet.Dst, Flags: packet.RST, Seq: fin.Packet.TCP.Seq + 1})
		p.hop(stack, packet.RST)
		p.state(guest, tcpstate.Closed)
	}},
}

// stackCloses is the first half of a close by the stack.
func (p *play) stackCloses() {
	p.t.Helper()
	p.serve.CloseWrite()
	p.hop(stack, finAck)
	p.state(guest, tcpstate.CloseWait)
	p.hop(guest, ack)
	p.state(stack, tcpstate.FinWait2)
}

// merge closes from the guest with three segments: the stack's ACK is lost, and
// its FIN says the same.
func (p *play) merge() {
	p.t.Helper()
	p.client.Close()
	p.hop(guest, finAck)
	p.state(stack, tcpstate.CloseWait)
	p.drop(stack, ack)
	p.serve.Close()
	p.hop(stack, finAck)
	p.state(guest, tcpstate.TimeWait)
	p.hop(guest, ack)
	p.state(stack, tcpstate.Closed)
}

// again waits for a segment that comes after some time.
func (p *play) again(after time.Duration, leg tcpstate.Leg, flags packet.Flags) *sim.Flight {
	p.t.Helper()
	p.n.Advance(after)
	return p.hold(leg, flags)
}

// later waits for a state that comes after some time.
func (p *play) later(after time.Duration, leg tcpstate.Leg, s tcpstate.State) {
	p.t.Helper()
	p.n.Advance(after)
	p.state(leg, s)
}
