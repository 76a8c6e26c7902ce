package relay

// Parker is implemented by the reader that Join hands to an io.ReaderFrom. A
// Conn whose ReadFrom has to wait for room on its own side calls Park before
// it waits, and Unpark after:
//
//	if err := parker.Park(); err != nil {
//		return n, err
//	}
//	c.waitForRoom() // ends when there is room, or by Reset
//	parker.Unpark()
//
// So Join knows that bytes do not move, watches the side that nobody reads
// meanwhile, and can end the wait at once when that side is reset.
type Parker interface {
	// Park returns an error if the connection that is read from is gone, so
	// that bytes which have to wait will never be wanted. ReadFrom returns it.
	Park() error

	// Unpark follows each Park that returned nil.
	Unpark()
}
