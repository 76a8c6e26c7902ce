package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
)

// serverPorts is how many ports the server has. Each measurement is given
// another, so that none meets what the one before it left in TIME-WAIT.
const serverPorts = 64

// What a client asks for, in the first byte of a connection.
const (
	askUpload   = 'U' // read to the end, answer with one byte
	askDownload = 'D' // send until the client closes
	askEcho     = 'E' // send everything back
	askClose    = 'C' // close first
)

// serve is the server's main: TCP and UDP on the ports of addr and after it,
// until standard input ends.
func serve(text string) int {
	first, err := netip.ParseAddrPort(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	raiseFiles()
	for i := range serverPorts {
		addr := netip.AddrPortFrom(first.Addr(), first.Port()+uint16(i))
		l, err1 := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
		p, err2 := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err := errors.Join(err1, err2); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			for {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				go answer(c)
			}
		}()
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, from, err := p.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				p.WriteToUDPAddrPort(buf[:n], from) // what is lost is sent again
			}
		}()
	}
	fmt.Print(ready)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func answer(c *net.TCPConn) {
	defer c.Close()
	var ask [1]byte
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return
	}
	switch ask[0] {
	case askUpload:
		if _, err := io.Copy(io.Discard, onlyReader{c}); err == nil {
			c.Write([]byte{1})
		}
	case askDownload:
		for buf := make([]byte, 256<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
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

// onlyReader hides that a connection can splice, which no ordinary program's
// reader does.
type onlyReader struct{ io.Reader }
