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
//
// A Conn may implement io.WriterTo and io.ReaderFrom to move bytes without a
// buffer in between; Join uses whichever is there.
type Conn interface {
	io.ReadWriteCloser

	// CloseWrite sends FIN after all bytes written before. Reading goes on.
	CloseWrite() error

	// Reset sends RST and releases the connection. It is safe after Close, and
	// then does nothing.
	Reset() error
}
