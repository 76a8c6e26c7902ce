// Package relay joins two connections so that what happens on one is seen on
// the other as what it was: FIN is FIN, RST is RST, a full buffer is a full
// window. It knows neither the embedded stack nor host sockets, only Conn.
package relay

import "io"

// Conn is one of the two connections that a relay joins. Reads and writes may
// run concurrently with each other and with the closing methods.
//
//	io.EOF from Read                     the peer sent FIN
//	an error matching syscall.ECONNRESET the peer sent RST (Read or Write)
//	an error matching syscall.EPIPE      the same, met by Write
//
// Bytes that came before an RST are read before the error is.
//
// A Conn may implement io.WriterTo and io.ReaderFrom to move bytes without a
// buffer in between; Join uses whichever is there. It should implement Watcher
// as well.
type Conn interface {
	io.ReadWriteCloser

	// CloseWrite sends FIN after all bytes written before. Reading goes on.
	CloseWrite() error

	// Reset sends RST and releases the connection. It is safe after Close, and
	// then does nothing. Like Close it makes every call that waits on this Conn
	// return with an error.
	Reset() error
}

// Expirer is a Conn that wants to know why it is reset: where
// Options.HalfCloseTimeout has run out, Expire is called in place of Reset.
type Expirer interface {
	Expire() error
}

// Watcher is a Conn that tells of the peer's RST also while nobody reads or
// writes: when the relay waits for room on the other side, or when the peer
// sent FIN long ago.
type Watcher interface {
	// AfterReset arranges that f is called once, in a goroutine of its own, when
	// the connection has been reset or has failed, with the error that a read
	// would meet; at once if that has happened already. A FIN, Close and Reset
	// do not call it. Calling stop gives the arrangement up; it reports whether
	// it did so before f was started, as the stop of context.AfterFunc does.
	AfterReset(f func(error)) (stop func() bool)
}

// Interrupter is a Conn on which a wait for bytes can be ended from this side.
// Handle.Close needs it.
type Interrupter interface {
	// Buffered returns how many bytes have come and were not read.
	Buffered() (int, error)

	// Interrupt ends the wait for bytes that is under way, or else the next one:
	// where nothing is left to read, Read, WaitRead or WriteTo returns once with
	// an error that matches os.ErrDeadlineExceeded. Reading can go on after that.
	Interrupt()
}

// Asked is a Conn that wants to know when its end was asked for through a Handle:
// ResetAsked is called in place of Reset, CloseWriteAsked in place of CloseWrite.
type Asked interface {
	ResetAsked() error
	CloseWriteAsked() error
}
