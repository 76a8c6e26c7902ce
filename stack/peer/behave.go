package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// echoBytes is the size of one echo buffer.
	echoBytes = 32 << 10

	// holdCheck is how often a held connection that has had the client's FIN
	// is looked at, to notice an RST that came after it.
	holdCheck = 5 * time.Second
)

var echoBuffers = sync.Pool{New: func() any { return new([echoBytes]byte) }}

// echo sends back what comes, then FIN for FIN.
func echo(conn net.Conn) {
	buffer := echoBuffers.Get().(*[echoBytes]byte)
	defer echoBuffers.Put(buffer)
	// The wrappers hide ReadFrom and WriteTo: a connection that copies into
	// itself without a buffer in between may wait for its own lock.
	_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, buffer[:])
	if err == nil {
		closeWrite(conn)
	}
}

// discard throws away what comes until FIN.
func discard(conn net.Conn) error {
	_, err := io.Copy(io.Discard, conn)
	return err
}

// source sends the pattern of RFC 864 until the client is gone, and throws
// away what comes, so that the end is not made an RST by bytes left unread.
func source(conn net.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	wg.Go(func() { drain(conn) })
	pattern := sourcePattern()
	for {
		if _, err := conn.Write(pattern); err != nil {
			return
		}
	}
}

// drain throws away what comes; anything but FIN closes the connection, so
// that a writer which waits for a window hears of it.
func drain(conn net.Conn) {
	if discard(conn) != nil {
		conn.Close()
	}
}

// sourcePattern returns whole turns of the pattern, so that it joins itself: 95
// lines of 72 printable characters, each line one character further on.
var sourcePattern = sync.OnceValue(func() []byte {
	const (
		first, last = int(' '), int('~')
		count       = last - first + 1
		width       = 72
		turns       = 9 // 9 × 95 × 74 = 63,270 bytes for each write
	)
	pattern := make([]byte, 0, turns*count*(width+2))
	for range turns {
		for line := range count {
			for column := range width {
				pattern = append(pattern, byte(first+(line+column)%count))
			}
			pattern = append(pattern, '\r', '\n')
		}
	}
	return pattern
})

// hold reads and throws away, and keeps the connection until ctx ends or the
// client resets it.
func hold(ctx context.Context, conn net.Conn) {
	if discard(conn) != nil {
		return
	}
	ticker := time.NewTicker(holdCheck)
	defer ticker.Stop()
	var one [1]byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			// After FIN a read returns at once: EOF again, or the reset.
			if _, err := conn.Read(one[:]); err != nil && !errors.Is(err, io.EOF) {
				return
			}
		}
	}
}

// closeWrite sends FIN. On a connection that cannot do so without closing, the
// Close that follows does it.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(closeWriter); ok {
		_ = c.CloseWrite()
	}
}
