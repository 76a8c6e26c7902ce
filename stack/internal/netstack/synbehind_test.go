package netstack

import (
	"testing"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// A guest that has sent the last segment of a connection may use the port
// again at once. The endpoint may not have handled that segment when the SYN
// arrives: it stands in gVisor's queue. The SYN opens a connection all the
// same, and none has to be repeated.
func TestASynRightBehindTheLastSegmentOpens(t *testing.T) {
	for _, tt := range []struct {
		name string
		last func(g *rawConn, s *Conn) // all but the last segment
		end  packet.Flags              // of that
	}{
		{"an ACK in LAST-ACK", func(g *rawConn, s *Conn) {
			g.send(packet.FIN|packet.ACK, "")
			g.g.log.waitFor(g.g.t, s.ID(), tcpstate.CloseWait)
			s.Close()
			g.expect(packet.FIN | packet.ACK)
		}, packet.ACK},
		{"a FIN in FIN-WAIT-2", func(g *rawConn, s *Conn) {
			s.Close()
			g.expect(packet.FIN | packet.ACK)
			g.send(packet.ACK, "")
			g.g.log.waitFor(g.g.t, s.ID(), tcpstate.FinWait2)
		}, packet.FIN | packet.ACK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRawGuest(t)
			for i := range 20 {
				c := g.conn(uint16(40000 + i))
				s := c.establish()
				tt.last(c, s)
				ep := s.rec.ep.Load()
				ep.LockUser() // what arrives now is queued
				c.send(tt.end, "")
				next := g.conn(uint16(40000 + i))
				next.seq = c.seq + 64000
				next.syn()
				ep.UnlockUser()
				g.request().Drop() // fails the test if it does not come
				for _, f := range g.Frames() {
					if f.Packet.TCP.Flags.Has(packet.RST) {
						t.Fatalf("connection %d: the SYN was answered with an RST", i)
					}
				}
			}
		})
	}
}
