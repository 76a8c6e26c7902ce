package upstream

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A batch is what recvmmsg(2) fills: several datagrams for the price of one
// system call, where several have come.
type batch struct {
	msgs [batchSize]mmsghdr
	iovs [batchSize]unix.Iovec
	bufs [batchSize][maxDatagram]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32 // bytes received
}

const (
	// maxDatagram holds every datagram: the longest is 65,527 bytes, over IPv6.
	maxDatagram = 1 << 16

	// batchSize is where the price of the call is lost in that of the datagrams.
	batchSize = 16
)

// batches are lent while something is being received: a flow that waits holds
// none.
var batches = sync.Pool{New: func() any {
	b := new(batch)
	for i := range b.msgs {
		b.iovs[i].Base = &b.bufs[i][0]
		b.iovs[i].SetLen(maxDatagram)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}}

// receive takes what has come, without waiting.
func (b *batch) receive(fd uintptr) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.msgs)), batchSize, unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// datagram returns the i'th that was received.
func (b *batch) datagram(i int) []byte { return b.bufs[i][:b.msgs[i].n] }

// buffer is room for something else.
func (b *batch) buffer() []byte { return b.bufs[0][:] }
