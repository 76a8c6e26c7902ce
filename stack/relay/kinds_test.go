package relay_test

import (
	"io"

	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

// The kinds of Conn that Join may meet, all made of a relaytest.Conn.

// watched is a Conn of which nothing but Watcher is known beside.
type watched struct {
	relay.Conn
	relay.Watcher
}

// unwatched is a Conn of which nothing is known beside.
type unwatched struct{ relay.Conn }

// direct is a Conn that moves bytes itself, as an endpoint of the embedded
// stack does: it looks for TryWriter, TryReader and Parker on what it is given.
type direct struct {
	watched
	c *relaytest.Conn
}

type kind struct {
	name string
	make func(*relaytest.Conn) relay.Conn
}

var kinds = []kind{
	{"plain", func(c *relaytest.Conn) relay.Conn { return watched{c, c} }},
	{"trying", func(c *relaytest.Conn) relay.Conn { return c }},
	{"direct", func(c *relaytest.Conn) relay.Conn { return direct{watched{c, c}, c} }},
}

func (d direct) WriteTo(w io.Writer) (total int64, err error) {
	buf := make([]byte, 1000)
	tw, tries := w.(relay.TryWriter)
	for {
		n, err := d.c.Read(buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		p := buf[:n]
		if !tries {
			if _, err := w.Write(p); err != nil {
				return total, err
			}
			p = nil
		}
		for len(p) > 0 {
			n, err := tw.TryWrite(p)
			if err != nil {
				return total, err
			}
			if p = p[n:]; len(p) > 0 {
				if err := tw.WaitWrite(); err != nil {
					return total, err
				}
			}
		}
		total += int64(n)
	}
}

func (d direct) ReadFrom(r io.Reader) (total int64, err error) {
	parker := r.(relay.Parker)
	buf := make([]byte, 1000)
	for {
		n, err := readSome(r, buf)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		for p := buf[:n]; len(p) > 0; {
			n, err := d.c.TryWrite(p)
			total += int64(n)
			if err != nil {
				return total, err
			}
			if p = p[n:]; len(p) == 0 {
				break
			}
			if err := parker.Park(); err != nil {
				return total, err
			}
			err = d.c.WaitWrite()
			parker.Unpark()
			if err != nil {
				return total, err
			}
		}
	}
}

// readSome reads at least one byte, without waiting for it with the buffer in
// hand where r allows that.
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
