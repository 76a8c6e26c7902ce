package netstack

import (
	"errors"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// copyBreakBytes is the largest packet that is copied to a buffer of its own
// size. gVisor charges a packet's whole buffer to the receiver, so a small
// packet in a 64 KiB buffer would fill a window with nothing.
const copyBreakBytes = 32 << 10

// link is gVisor's link endpoint on a tun.Device. Super-segments go both ways
// as one packet; gVisor's own endpoint for descriptors does offloads on
// sockets only.
//
// Inbound, from Read to gVisor, runs in the goroutine of Stack.Run. Outbound,
// WritePackets, runs in whichever goroutine sends, with the endpoint locked.
type link struct {
	dev     tun.Device
	stack   *Stack
	mtu     uint32
	attach  sync.Mutex // guards dispatcher
	deliver gvstack.NetworkDispatcher
	pieces  sync.Pool // of *[][]byte
	early   early
}

var _ interface {
	gvstack.LinkEndpoint
	gvstack.GSOEndpoint
} = (*link)(nil)

func newLink(dev tun.Device, s *Stack) *link {
	l := &link{dev: dev, stack: s, mtu: uint32(dev.MTU())}
	l.pieces.New = func() any {
		p := make([][]byte, 0, 16)
		return &p
	}
	return l
}

// MTU implements gvstack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU implements gvstack.LinkEndpoint; the device's MTU does not change.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements gvstack.LinkEndpoint; a TUN has no link header.
func (l *link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements gvstack.LinkEndpoint; a TUN has none.
func (l *link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements gvstack.LinkEndpoint.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements gvstack.LinkEndpoint. Checksums of received packets
// have been verified, by the guest's kernel or in ingress. TX offload is not
// claimed: with it gVisor would leave resets with no checksum at all.
func (l *link) Capabilities() gvstack.LinkEndpointCapabilities {
	return gvstack.CapabilityRXChecksumOffload
}

// Attach implements gvstack.LinkEndpoint.
func (l *link) Attach(d gvstack.NetworkDispatcher) {
	l.attach.Lock()
	l.deliver = d
	l.attach.Unlock()
}

func (l *link) dispatcher() gvstack.NetworkDispatcher {
	l.attach.Lock()
	defer l.attach.Unlock()
	return l.deliver
}

// IsAttached implements gvstack.LinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatcher() != nil }

// Wait implements gvstack.LinkEndpoint; Stack.Close waits for the reader.
func (l *link) Wait() {}

// ARPHardwareType implements gvstack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements gvstack.LinkEndpoint.
func (l *link) AddHeader(*gvstack.PacketBuffer) {}

// ParseHeader implements gvstack.LinkEndpoint.
func (l *link) ParseHeader(*gvstack.PacketBuffer) bool { return true }

// Close implements gvstack.LinkEndpoint; Stack.Close closes the device.
func (l *link) Close() {}

// SetOnCloseAction implements gvstack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}

// GSOMaxSize implements gvstack.GSOEndpoint. gVisor cuts segments to this less
// 161 bytes, so that headers of any length still fit a packet.
func (l *link) GSOMaxSize() uint32 { return tun.MaxPacket }

// SupportedGSO implements gvstack.GSOEndpoint.
func (l *link) SupportedGSO() gvstack.SupportedGSO { return gvstack.HostGSOSupported }

// WritePackets implements gvstack.LinkEndpoint.
func (l *link) WritePackets(pkts gvstack.PacketBufferList) (int, tcpip.Error) {
	written := 0
	for _, pkt := range pkts.AsSlice() {
		switch id, verdict := l.egress(pkt); verdict {
		case send:
			l.writePacket(pkt)
		case sendSYNACK:
			l.writeSYNACK(id, pkt)
		}
		written++
	}
	return written, nil
}

// writeSYNACK writes a SYN-ACK. What the guest has answered meanwhile goes on in a
// goroutine of its own, which runs when this one has unlocked the endpoint and
// waits for the end of the handshake.
func (l *link) writeSYNACK(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) {
	begun := l.early.begin(id)
	l.writePacket(pkt)
	switch {
	case !begun || l.early.end(id):
	case l.stack.admission.begin():
		go func() {
			defer l.stack.admission.running.Done()
			l.early.handOver(id, l.inject)
		}()
	default: // the stack is being closed
		l.early.handOver(id, l.inject)
	}
}

// What egress says of a packet.
type egressVerdict uint8

const (
	withhold egressVerdict = iota
	send
	sendSYNACK
)

// egress looks at a packet that leaves and says what to do with it. One test of
// the flags is all that most packets cost; id is only that of a SYN-ACK.
func (l *link) egress(pkt *gvstack.PacketBuffer) (id gvstack.TransportEndpointID, verdict egressVerdict) {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return id, send
	}
	tcpHdr := header.TCP(pkt.TransportHeader().Slice())
	if len(tcpHdr) < header.TCPMinimumSize {
		return id, send
	}
	flags := tcpHdr.Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagRst) == 0 {
		return id, send
	}
	netHdr := pkt.Network()
	id = gvstack.TransportEndpointID{
		LocalAddress: netHdr.SourceAddress(), LocalPort: tcpHdr.SourcePort(),
		RemoteAddress: netHdr.DestinationAddress(), RemotePort: tcpHdr.DestinationPort(),
	}
	if flags&header.TCPFlagSyn != 0 {
		if !l.stack.tracker.egressSYN(id, pkt.NetworkProtocolNumber, tcpHdr) {
			return id, withhold
		}
		l.stack.synOptions.rewrite(tcpHdr, !pkt.GSOOptions.NeedsCsum)
		if flags&header.TCPFlagAck != 0 {
			return id, sendSYNACK
		}
		return id, send
	}
	r := l.stack.tracker.find(id)
	if r == nil {
		return id, send
	}
	// An endpoint resets with RST and ACK. The others, which nobody asked for,
	// are answers to segments that found no endpoint: of a connection that
	// ends just now, perhaps.
	if st := r.state(); flags.Contains(header.TCPFlagAck) && (tcpHdr.SequenceNumber() != 0 || st == tcpstate.SynReceived) {
		r.rstOut.Store(uint32(st))
	}
	if r.mute.Load() {
		return id, withhold
	}
	return id, send
}

// writePacket hands one packet to the device. What the device cannot take is
// lost, as on any wire.
func (l *link) writePacket(pkt *gvstack.PacketBuffer) {
	var off tun.Offload
	if gso := &pkt.GSOOptions; gso.Type != gvstack.GSONone {
		off.HdrLen = uint16(pkt.HeaderSize())
		if gso.NeedsCsum {
			off.NeedsCsum = true
			off.CsumStart = gso.L3HdrLen
			off.CsumOffset = gso.CsumOffset
		}
		if pkt.Data().Size() > int(gso.MSS) {
			off.GSOSize = gso.MSS
			switch gso.Type {
			case gvstack.GSOTCPv4:
				off.GSO = tun.GSOTCP4
			case gvstack.GSOTCPv6:
				off.GSO = tun.GSOTCP6
			}
		}
	}
	pieces := l.pieces.Get().(*[][]byte)
	bufs := (*pieces)[:0]
	views, offset := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		bufs = append(bufs, b[offset:])
		offset = 0
	}
	if err := l.dev.Write(bufs, off); err != nil {
		l.stack.counters.writeErrors.Add(1)
	}
	clear(bufs)
	*pieces = bufs[:0]
	l.pieces.Put(pieces)
}

// run reads the device until it is closed or gone.
func (l *link) run() error {
	var v *buffer.View
	for {
		if v == nil {
			v = buffer.NewViewSize(tun.MaxPacket)
		}
		n, off, err := l.dev.Read(v.AsSlice())
		if err != nil {
			v.Release()
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		verdict := l.stack.ingress(v.AsSlice()[:n], off)
		if verdict == drop {
			continue
		}
		var payload *buffer.View
		if n <= copyBreakBytes {
			payload = buffer.NewViewWithData(v.AsSlice()[:n])
		} else {
			payload = v
			payload.CapLength(n)
			v = nil
		}
		if !l.early.keep(payload) {
			l.inject(payload)
		}
	}
}

// inject gives a packet to gVisor, which owns it from then on.
func (l *link) inject(v *buffer.View) {
	d := l.dispatcher()
	if d == nil {
		v.Release()
		return
	}
	proto := header.IPv4ProtocolNumber
	if v.AsSlice()[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	pkt := gvstack.NewPacketBuffer(gvstack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	d.DeliverNetworkPacket(proto, pkt)
	pkt.DecRef()
}
