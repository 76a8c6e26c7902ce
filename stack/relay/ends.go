package relay

import "io"

// The four types below are a direction as its own two ends see it: sink and
// trySink are what src writes to, source and trySource what dst reads from.
// They count what passes, note whose error was met, and tell join when the
// loop waits.

// sink is a dst of which only Write is known.
type sink direction

// Write waits until dst has taken all of p.
func (s *sink) Write(p []byte) (int, error) {
	d := (*direction)(s)
	n, err := d.dst.Write(p)
	d.count(n)
	if err != nil {
		d.writeErr = err
	}
	return n, err
}

// trySink is a dst that writes without waiting.
type trySink direction

// TryWrite implements TryWriter.
func (s *trySink) TryWrite(p []byte) (int, error) {
	d := (*direction)(s)
	n, err := d.dst.(TryWriter).TryWrite(p)
	d.count(n)
	if err != nil {
		d.writeErr = err
	}
	return n, err
}

// WaitWrite implements TryWriter. It also ends when src is reset.
func (s *trySink) WaitWrite() error {
	d := (*direction)(s)
	if err := d.park(); err != nil {
		return err
	}
	err := d.dst.(TryWriter).WaitWrite()
	d.unpark()
	if err != nil {
		d.writeErr = err
	}
	return err
}

// Write waits until dst has taken all of p.
func (s *trySink) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := s.TryWrite(p[written:])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
		if err := s.WaitWrite(); err != nil {
			return written, err
		}
	}
}

// source is a src of which only Read is known.
type source direction

// Read reads from src, which may wait.
func (s *source) Read(p []byte) (int, error) {
	d := (*direction)(s)
	n, err := d.src.Read(p)
	d.read(n, err)
	return n, err
}

// Park implements Parker.
func (s *source) Park() error { return (*direction)(s).park() }

// Unpark implements Parker.
func (s *source) Unpark() { (*direction)(s).unpark() }

// trySource is a src that reads without waiting.
type trySource direction

// Buffered implements TryReader.
func (s *trySource) Buffered() (int, error) {
	n, err := s.src.(TryReader).Buffered()
	(*direction)(s).read(0, err)
	return n, err
}

// TryRead implements TryReader.
func (s *trySource) TryRead(p []byte) (int, error) {
	d := (*direction)(s)
	n, err := d.src.(TryReader).TryRead(p)
	d.read(n, err)
	return n, err
}

// WaitRead implements TryReader.
func (s *trySource) WaitRead() error {
	err := s.src.(TryReader).WaitRead()
	(*direction)(s).read(0, err)
	return err
}

// Read reads from src, which may wait.
func (s *trySource) Read(p []byte) (int, error) {
	d := (*direction)(s)
	n, err := d.src.Read(p)
	d.read(n, err)
	return n, err
}

// Park implements Parker.
func (s *trySource) Park() error { return (*direction)(s).park() }

// Unpark implements Parker.
func (s *trySource) Unpark() { (*direction)(s).unpark() }

// read counts what was read and notes an error that is not the FIN.
func (d *direction) read(n int, err error) {
	d.count(n)
	if err != nil && err != io.EOF {
		d.readErr = err
	}
}
