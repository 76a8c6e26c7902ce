package relay

// The two interfaces below are how bytes move without a buffer in between: the
// side that owns packet buffers reads straight into them, or writes straight
// out of them, and waits only when the other side says so. A Conn that
// implements them is a host socket; a Conn that looks for them is an endpoint
// of the embedded stack.

// TryWriter writes without waiting.
type TryWriter interface {
	// TryWrite writes as much of p as fits now. n < len(p) with a nil error
	// means that the rest would have to wait.
	TryWrite(p []byte) (n int, err error)

	// WaitWrite returns when TryWrite may make progress, or with the error that
	// it would meet.
	WaitWrite() error
}

// TryReader reads without waiting.
type TryReader interface {
	// Buffered returns how many bytes TryRead can read now. Zero with a nil
	// error means none, or the end: TryRead tells which.
	Buffered() (int, error)

	// TryRead reads into p what is there now. n == 0 with a nil error means
	// that it would have to wait; io.EOF is the peer's FIN.
	TryRead(p []byte) (n int, err error)

	// WaitRead returns when TryRead may make progress.
	WaitRead() error
}
