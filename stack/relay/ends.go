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
	most, err := d.admitted(len(p))
	if err != nil {
		return 0, err
	}
	n, err := d.dst.Write(p[:most])
	d.count(n)
	if err != nil {
		d.writeErr = err
	}
	if err == nil && n < len(p) {
		err = errDelivered
	}
	return n, err
}

// trySink is a dst that writes without waiting.
type trySink direction

// TryWrite implements TryWriter.
func (s *trySink) TryWrite(p []byte) (int, error) {
	d := (*direction)(s)
	most, err := d.admit(len(p))
	if most == 0 {
		return 0, err
	}
	n, err := d.dst.(TryWriter).TryWrite(p[:most])
	d.count(n)
	if err != nil {
		d.writeErr = err
	}
	return n, err
}

// WaitWrite implements TryWriter. It also ends when src is reset.
func (s *trySink) WaitWrite() error {
	d := (*direction)(s)
	if err := d.hold(); err != nil {
		return err
	}
	if _, err := d.admit(1); err != nil {
		return err
	}
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
func (s *source) Read(p []byte) (int, error) { return (*direction)(s).readWaiting(p) }

// Park implements Parker.
func (s *source) Park() error { return (*direction)(s).park() }

// Unpark implements Parker.
func (s *source) Unpark() { (*direction)(s).unpark() }

// trySource is a src that reads without waiting.
type trySource direction

// Buffered implements TryReader.
func (s *trySource) Buffered() (int, error) {
	d := (*direction)(s)
	n, err := d.src.(TryReader).Buffered()
	d.read(0, err)
	if err != nil || n == 0 {
		return n, err
	}
	return d.admit(n)
}

// TryRead implements TryReader.
func (s *trySource) TryRead(p []byte) (int, error) {
	d := (*direction)(s)
	most, err := d.admit(len(p))
	if most == 0 {
		return 0, err
	}
	n, err := d.src.(TryReader).TryRead(p[:most])
	d.read(n, err)
	return n, err
}

// WaitRead implements TryReader.
func (s *trySource) WaitRead() error {
	d := (*direction)(s)
	if err := d.hold(); err != nil {
		return err
	}
	err := d.src.(TryReader).WaitRead()
	d.read(0, err)
	return err
}

// Read reads from src, which may wait.
func (s *trySource) Read(p []byte) (int, error) { return (*direction)(s).readWaiting(p) }

// Park implements Parker.
func (s *trySource) Park() error { return (*direction)(s).park() }

// Unpark implements Parker.
func (s *trySource) Unpark() { (*direction)(s).unpark() }

// readWaiting reads from src, which may wait. What it has read of a join that was
// frozen meanwhile it keeps until that goes on.
func (d *direction) readWaiting(p []byte) (int, error) {
	most, err := d.admitted(len(p))
	if err != nil {
		return 0, err
	}
	n, err := d.src.Read(p[:most])
	if n > 0 {
		if err := d.hold(); err != nil {
			return 0, err
		}
	}
	d.read(n, err)
	return n, err
}

// read counts what was read and notes an error that is not the FIN.
func (d *direction) read(n int, err error) {
	d.count(n)
	if err != nil && err != io.EOF {
		d.readErr = err
	}
}
