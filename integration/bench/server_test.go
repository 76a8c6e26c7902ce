package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

// What a client asks for, in the first byte of a connection.
const (
	askUpload   = 'U' // read to the end, answer with one byte
	askDownload = 'D' // eight bytes say how many to send
	askEcho     = 'E' // send everything back
	askClose    = 'C' // close first
)

// serve is the server's main: TCP and UDP on addr, until standard input ends.
func serve(addr string) int {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c.(*net.TCPConn))
		}
	}()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			p.WriteTo(buf[:n], from) // what is lost is sent again
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func answer(c *net.TCPConn) {
	defer c.Close()
	var ask [9]byte
	if _, err := io.ReadFull(c, ask[:1]); err != nil {
		return
	}
	switch ask[0] {
	case askUpload:
		if _, err := io.Copy(io.Discard, onlyReader{c}); err == nil {
			c.Write([]byte{1})
		}
	case askDownload:
		if _, err := io.ReadFull(c, ask[1:]); err == nil {
			send(c, int64(binary.BigEndian.Uint64(ask[1:])))
		}
	case askEcho:
		buf := make([]byte, 4<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	case askClose:
	}
}

// send writes n bytes.
func send(w io.Writer, n int64) error {
	buf := make([]byte, 256<<10)
	for n > 0 {
		m, err := w.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// onlyReader hides that a connection can splice, which no ordinary program's
// reader does.
type onlyReader struct{ io.Reader }
