package netstack

import (
	"errors"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// bulkBytes is the most that one ReadFrom step moves. It is more than one
// segment, so that segments leave full.
const bulkBytes = 256 << 10

// tryWriter and tryReader are relay.TryWriter and relay.TryReader.
type tryWriter interface {
	TryWrite(p []byte) (int, error)
	WaitWrite() error
}

type tryReader interface {
	Buffered() (int, error)
	TryRead(p []byte) (int, error)
	WaitRead() error
}

// parker is relay.Parker: it is told when bytes have to wait for room.
type parker interface {
	Park() error
	Unpark()
}

var errWouldBlock = errors.New("netstack: the writer would block")

// trySink writes to a tryWriter what gVisor reads out, straight from the
// packets it arrived in, with the endpoint locked. Segments that arrive
// meanwhile queue up and are handled as one batch.
type trySink struct {
	w   tryWriter
	err error // what the writer said, or errWouldBlock
}

func (s *trySink) Write(p []byte) (int, error) {
	n, err := s.w.TryWrite(p)
	if err == nil && n < len(p) {
		err = errWouldBlock
	}
	s.err = err
	return n, err
}

// WriteTo moves bytes from the guest to w until the guest's FIN, and returns
// nil then. An error of the guest's side is an errno; w's errors come as they
// are.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	tw, ok := w.(tryWriter)
	if !ok {
		return io.Copy(w, justReader{c})
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	var total int64
	sink := &trySink{w: tw}
	for {
		if c.closed.Load() {
			return total, net.ErrClosed
		}
		sink.err = nil
		res, err := c.ep.Read(sink, tcpip.ReadOptions{})
		total += int64(res.Count)
		if sink.err != nil {
			if sink.err != errWouldBlock {
				return total, sink.err
			}
			if err := tw.WaitWrite(); err != nil {
				return total, err
			}
			continue
		}
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.waitReadable(); err != nil {
				return total, err
			}
		case *tcpip.ErrClosedForReceive:
			return total, nil
		default:
			return total, errnoOf(err)
		}
	}
}

// tryPayload hands gVisor exactly n bytes of a tryReader that has them. gVisor
// reads them straight into the buffers it will send from. It spins on a source
// that ends early, so a shortfall is an error.
type tryPayload struct {
	r   tryReader
	n   int
	err error
}

// Len implements tcpip.Payloader.
func (p *tryPayload) Len() int { return p.n }

func (p *tryPayload) Read(b []byte) (int, error) {
	if p.n == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	if len(b) > p.n {
		b = b[:p.n]
	}
	for {
		n, err := p.r.TryRead(b)
		if n > 0 {
			p.n -= n
			return n, nil
		}
		if err == nil {
			err = p.r.WaitRead()
		}
		if err != nil {
			p.err = err
			return 0, errors.Join(io.ErrUnexpectedEOF, err)
		}
	}
}

// ReadFrom moves bytes from r to the guest until r ends, and returns nil then.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	tr, ok := r.(tryReader)
	if !ok {
		return io.Copy(justWriter{c}, r)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	var total int64
	for {
		if c.closed.Load() {
			return total, net.ErrClosed
		}
		n, full, err := c.readSome(tr)
		total += int64(n)
		for full && err == nil {
			n, full, err = c.readBulk(tr)
			total += int64(n)
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		case n == 0:
			if err := tr.WaitRead(); err != nil {
				return total, err
			}
		}
	}
}

// scratches are the buffers of readSome: most reads fit one and cost a single
// system call, and an idle connection holds none.
var scratches = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// readSome moves what is there, up to a scratch buffer, and reports whether it
// filled that: then there is more.
func (c *Conn) readSome(tr tryReader) (n int, full bool, err error) {
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	n, err = tr.TryRead(*scratch)
	if n == 0 {
		return 0, false, err
	}
	_, werr := c.writeLocked((*scratch)[:n], tr)
	if werr != nil {
		return n, false, werr
	}
	return n, n == len(*scratch), err
}

// readBulk moves a large amount without a buffer in between, and reports
// whether it did; if there is not much it moves nothing.
func (c *Conn) readBulk(tr tryReader) (n int, more bool, err error) {
	have, err := tr.Buffered()
	if err != nil || have < 16<<10 {
		return 0, false, err
	}
	p := &tryPayload{r: tr, n: min(have, bulkBytes)}
	for {
		m, werr := c.ep.Write(p, tcpip.WriteOptions{})
		if p.err == io.EOF { // what was read before it is lost, so it is none
			p.err = io.ErrUnexpectedEOF
		}
		if p.err != nil {
			return int(m), false, p.err
		}
		if _, block := werr.(*tcpip.ErrWouldBlock); !block {
			return int(m), werr == nil, errnoOf(werr)
		}
		if err := c.waitForRoom(tr); err != nil {
			return 0, false, err
		}
	}
}

// waitForRoom waits until the guest takes more, and tells src, if it asks.
func (c *Conn) waitForRoom(src any) error {
	p, ok := src.(parker)
	if ok {
		if err := p.Park(); err != nil {
			return err
		}
		defer p.Unpark()
	}
	if err := c.wait(c.writable.ch, &c.writeBy); err != nil {
		return err
	}
	if c.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// justReader and justWriter hide WriteTo and ReadFrom from io.Copy.
type (
	justReader struct{ io.Reader }
	justWriter struct{ io.Writer }
)
