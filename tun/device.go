// Package tun opens and drives one TUN device: the wire between the kernel of
// a sandbox and whoever terminates its traffic. A Device carries whole IP
// packets, and with offloads whole TCP super-segments of up to 64 KiB.
//
// It leaves to others what is in the packets (package packet parses them) and
// which namespace the device lives in (package netns). Begin with Open, or in
// tests with tuntest.Pair.
package tun

import (
	"errors"
	"time"
)

// ErrGone is returned by Device.Read and Device.Write when the network
// namespace of the device has died or the device was deleted. The device is of
// no more use but to be closed.
var ErrGone = errors.New("tun: the device is gone")

// Device is one TUN device. Read is called by one goroutine at a time; Write
// may be called concurrently with Read and with itself.
type Device interface {
	// Read reads one IP packet, or one super-segment, into buf and returns its
	// length and what offloads the sender left to be done. buf must hold
	// MaxPacket bytes. It blocks; Close unblocks it with os.ErrClosed.
	Read(buf []byte) (n int, h Offload, err error)

	// Write writes one IP packet, or one super-segment, given as pieces in
	// order. It keeps nothing of bufs. It never blocks for long: a full queue
	// drops the packet, as a wire would, without an error.
	Write(bufs [][]byte, h Offload) error

	// MTU is the largest packet the device carries without GSO, in bytes.
	MTU() int

	// Name is the interface's name inside its namespace.
	Name() string

	// Close releases the device. It is safe to call twice.
	Close() error
}

// Deadliner is implemented by a Device whose Read can be told not to wait: after a
// deadline in the past it returns an error that matches os.ErrDeadlineExceeded,
// until the zero deadline lets it wait again.
type Deadliner interface {
	SetReadDeadline(t time.Time) error
}

// MaxPacket is the largest packet or super-segment a Device carries, in bytes.
const MaxPacket = 65535

// GSO says how a super-segment is to be split into segments.
type GSO uint8

// The kinds of super-segments. The zero GSO is an ordinary packet.
const (
	GSONone GSO = iota
	GSOTCP4
	GSOTCP6
)

// Offload says what work on a packet's checksum and size has been left to the
// receiver, in the terms of struct virtio_net_hdr (linux/virtio_net.h). The
// zero Offload is a complete packet whose checksum must be verified.
type Offload struct {
	GSO     GSO
	GSOSize uint16 // payload bytes of each segment; with GSO only
	HdrLen  uint16 // bytes of IP and TCP header; with GSO only

	// NeedsCsum: the checksum field holds only the pseudo-header's sum; the
	// receiver completes it, from CsumStart to the packet's end, into
	// CsumStart+CsumOffset.
	NeedsCsum  bool
	CsumStart  uint16
	CsumOffset uint16

	// DataValid: the checksum has been verified already.
	DataValid bool
}
