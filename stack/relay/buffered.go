package relay

import (
	"io"
	"sync"
)

// bufferSize is the size of a buffer in bytes: half of what one segment of the
// TUN can hold, which measured well for a plain copy.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyBuffered is the loop for two ends of which neither moves bytes by
// itself. A src that can wait without a buffer holds none while it is idle.
func (d *direction) copyBuffered() error {
	var w io.Writer = (*sink)(d)
	if _, ok := d.dst.(TryWriter); ok {
		w = (*trySink)(d)
	}
	if _, ok := d.src.(TryReader); ok {
		return d.copyTrying(w)
	}
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := d.src.Read(buf[:])
		if e := d.pass(w, buf[:n], err); e != nil || err == io.EOF {
			return e
		}
	}
}

func (d *direction) copyTrying(w io.Writer) error {
	for {
		if err := d.copyAvailable(w); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := (*trySource)(d).WaitRead(); err != nil {
			return err
		}
	}
}

// copyAvailable moves what is there now. A nil error means that src has to be
// waited for, io.EOF is its FIN.
func (d *direction) copyAvailable(w io.Writer) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := d.src.(TryReader).TryRead(buf[:])
		if e := d.pass(w, buf[:n], err); e != nil || n == 0 {
			if e == nil {
				e = err
			}
			return e
		}
		if err == io.EOF {
			return err
		}
	}
}

// pass writes p, then returns the error of the read that brought it, unless
// that is the FIN.
func (d *direction) pass(w io.Writer, p []byte, err error) error {
	if len(p) > 0 {
		if _, werr := w.Write(p); werr != nil {
			return werr
		}
	}
	if err != nil && err != io.EOF {
		d.readErr = err
		return err
	}
	return nil
}
