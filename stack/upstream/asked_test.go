package upstream

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"tcpbox/stack/relay"
)

var (
	_ relay.Interrupter = (*Conn)(nil)
	_ relay.Asked       = (*Conn)(nil)
)

// TestInterrupt ends waits for bytes, once each, and only where there is nothing to
// read.
func TestInterrupt(t *testing.T) {
	h := &Host{}
	defer h.Close()
	c, peer := pair(t, h)
	interrupted := func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

	waits := make(chan error, 1)
	go func() { waits <- c.WaitRead() }()
	c.Interrupt()
	if err := <-waits; !interrupted(err) {
		t.Errorf("WaitRead = %v", err)
	}

	io.WriteString(peer, "bytes")
	if err := c.WaitRead(); err != nil {
		t.Errorf("WaitRead = %v", err)
	}
	c.Interrupt()
	if n, err := c.Buffered(); n != 5 || err != nil {
		t.Errorf("Buffered = %d, %v", n, err)
	}
	if err := c.WaitRead(); err != nil {
		t.Errorf("with bytes left to read: WaitRead = %v", err)
	}
	buf := make([]byte, 10)
	if n, err := c.Read(buf); string(buf[:n]) != "bytes" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	if _, err := c.Read(buf); !interrupted(err) {
		t.Errorf("Read = %v", err)
	}
	io.WriteString(peer, "more")
	if n, err := c.Read(buf); string(buf[:n]) != "more" || err != nil {
		t.Errorf("Read = %q, %v", buf[:n], err)
	}
	peer.CloseWrite()
	if _, err := c.Read(buf); err != io.EOF {
		t.Errorf("Read = %v", err)
	}
}

// TestTheLogSaysWhoAsked: a FIN and an RST that were asked for have a cause of their
// own.
func TestTheLogSaysWhoAsked(t *testing.T) {
	for want, do := range map[string]func(*Conn) error{
		" ESTABLISHED -policy conn rst-> CLOSED":       (*Conn).ResetAsked,
		" ESTABLISHED -policy conn close-> FIN-WAIT-1": (*Conn).CloseWriteAsked,
	} {
		var log history
		h := &Host{Sink: log.add}
		c, peer := pair(t, h)
		if err := do(c); err != nil {
			t.Errorf("%s: %v", want, err)
		}
		if got := log.String(); !strings.HasSuffix(got, want) {
			t.Errorf("the log has %q, want %q at its end", got, want)
		}
		peer.Close()
		c.Reset()
		h.Close()
	}
}
