package relaytest

import (
	"io"

	"tcpbox/stack/relay"
)

// Full is a Conn that can do everything the relay may look for in a host
// socket. A Conn of Pipe is one.
type Full interface {
	relay.Conn
	relay.Watcher
	relay.Interrupter
	relay.TryReader
	relay.TryWriter
}

// Direct returns a Conn over c that moves bytes itself, as an endpoint of the
// embedded stack does: by WriteTo and ReadFrom, which look for TryWriter,
// TryReader and Parker on what they are given. Closing it closes c.
func Direct(c Full) relay.Conn { return direct{c, c, c, c} }

// Plain returns a Conn over c of which nothing but Watcher and Interrupter is known
// beside.
func Plain(c Full) relay.Conn { return plain{c, c, c} }

type plain struct {
	relay.Conn
	relay.Watcher
	relay.Interrupter
}

type direct struct {
	relay.Conn
	relay.Watcher
	relay.Interrupter
	c Full
}

// chunk is how many bytes a direct moves at a time.
const chunk = 16 << 10

// WriteTo implements io.WriterTo.
func (d direct) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, chunk)
	for {
		n, err := d.c.Read(buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err = writeAll(w, buf[:n])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

func writeAll(w io.Writer, p []byte) (written int, err error) {
	tw, tries := w.(relay.TryWriter)
	if !tries {
		return w.Write(p)
	}
	for {
		n, err := tw.TryWrite(p[written:])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
		if err := tw.WaitWrite(); err != nil {
			return written, err
		}
	}
}

// ReadFrom implements io.ReaderFrom.
func (d direct) ReadFrom(r io.Reader) (total int64, err error) {
	buf := make([]byte, chunk)
	for {
		n, err := readSome(r, buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err = d.writeParking(r, buf[:n])
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// readSome reads at least one byte, without waiting for it in Read where r
// allows that.
func readSome(r io.Reader, buf []byte) (int, error) {
	tr, tries := r.(relay.TryReader)
	if !tries {
		return r.Read(buf)
	}
	for {
		n, err := tr.TryRead(buf)
		if n > 0 || err != nil {
			return n, err
		}
		if err := tr.WaitRead(); err != nil {
			return 0, err
		}
	}
}

// writeParking writes all of p, and tells r whenever that has to wait.
func (d direct) writeParking(r io.Reader, p []byte) (written int, err error) {
	parker, parks := r.(relay.Parker)
	for {
		n, err := d.c.TryWrite(p[written:])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
		if parks {
			if err := parker.Park(); err != nil {
				return written, err
			}
		}
		err = d.c.WaitWrite()
		if parks {
			parker.Unpark()
		}
		if err != nil {
			return written, err
		}
	}
}
