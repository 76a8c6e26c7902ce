package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

// Conn is a connected host socket. It implements relay.Conn, relay.TryReader,
// relay.TryWriter, relay.Watcher, relay.Interrupter and relay.Asked. All methods may be called concurrently;
// readers take turns, and so do writers.
//
// The descriptor belongs to file, whose reference count keeps its number from
// being used after Close: every system call on it is made through raw.
type Conn struct {
	host          *Host
	file          *os.File
	raw           syscall.RawConn
	local, remote netip.AddrPort
	closed        atomic.Bool // by Close or Reset
	watch         watch
	leg           leg

	in  reader
	out writer
}

func newConn(h *Host, file *os.File) *Conn {
	raw, _ := file.SyscallConn() // fails only for a nil file
	c := &Conn{host: h, file: file, raw: raw}
	c.in.prepare()
	c.out.prepare()
	return c
}

// LocalAddr returns the address and port that the host gave the socket.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr returns where it is connected to.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// Read reads at least one byte unless p is empty, and waits for it. It returns
// io.EOF for the peer's FIN.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		n, err := c.TryRead(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		if err := c.WaitRead(); err != nil {
			return 0, err
		}
	}
}

// Write writes all of p, and waits for room.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := c.TryWrite(p[written:])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
		if err := c.WaitWrite(); err != nil {
			return written, err
		}
	}
}

// CloseWrite sends FIN after what has been written. ENOTCONN says that the
// peer has reset the connection.
func (c *Conn) CloseWrite() error { return c.closeWrite(false) }

// CloseWriteAsked implements relay.Asked: it is CloseWrite, and the log says who
// asked.
func (c *Conn) CloseWriteAsked() error { return c.closeWrite(true) }

func (c *Conn) closeWrite(asked bool) error {
	// The far end may answer before shutdown returns: nobody looks at the socket
	// meanwhile who would not know that a FIN was sent.
	c.leg.mu.Lock()
	err := c.control("close write", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	c.leg.asked = c.leg.asked || asked && !c.leg.finSent
	c.leg.finSent = c.leg.finSent || err == nil
	c.leg.mu.Unlock()
	if err == nil {
		c.look(nil)
	}
	return err
}

// Close releases the socket; the kernel goes on to deliver what was written,
// and sends FIN, or RST if it holds bytes that were not read (RFC 2525,
// section 2.17). With the knob linger=reset it is released as by Reset, but for a
// TIME-WAIT, which is the kernel's already. Calls that wait return net.ErrClosed. It
// does nothing after Close or Reset.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	c.host.resets.forget(c)
	c.host.knobs.dismiss(c)
	c.look(nil)
	var err error
	if c.host.knobs.resets() && !c.inTimeWait() {
		err = c.abort()
		c.went(tcpstate.Closed, abortCall)
	} else {
		err = c.file.Close()
		c.outlive()
	}
	c.host.open.Add(-1)
	return c.failed("close", err)
}

// Reset throws away what has not been delivered, sends RST and releases the
// socket. Calls that wait return net.ErrClosed. It does nothing after Close or
// Reset.
func (c *Conn) Reset() error { return c.reset(abortCall) }

// ResetAsked implements relay.Asked: it is Reset, and the log says who asked.
func (c *Conn) ResetAsked() error { return c.reset(askedToReset) }

func (c *Conn) reset(why tcpstate.Cause) error {
	if !c.closed.CompareAndSwap(false, true) {
		return nil
	}
	c.host.resets.forget(c)
	c.host.knobs.dismiss(c)
	c.look(nil)
	err := c.abort()
	c.went(tcpstate.Closed, why)
	c.host.open.Add(-1)
	return c.failed("reset", err)
}

// abort closes the file with the option that makes the kernel send RST.
func (c *Conn) abort() error {
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	return errors.Join(cerr, err, c.file.Close())
}

// control runs a system call on the descriptor.
func (c *Conn) control(op string, f func(fd int) error) error {
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); err == nil {
		err = cerr
	}
	return c.failed(op, err)
}

// failed says in which operation err was met. It leaves io.EOF and nil alone.
func (c *Conn) failed(op string, err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case c.closed.Load():
		err = net.ErrClosed
	}
	return fmt.Errorf("upstream: %s %v: %w", op, c.remote, err)
}
