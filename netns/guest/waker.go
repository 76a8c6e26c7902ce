package guest

import "golang.org/x/sys/unix"

// A waker lets init continue this process while it is stopped, for the guest
// was: that the guest goes on, or has ended, cannot be heard then. Init writes to
// a pipe after it has told of either, and the kernel sends this process SIGCONT
// for that (fcntl(2), F_SETSIG).
//
// The pipe carries nothing else. The channel itself would not do: the signal
// for a message may be sent a while after the message can be read, and then
// continues a process that has stopped because of that very message.
type waker struct{ fd int }

// newWaker gives init the other end. A nil waker does nothing.
func newWaker(ch *channel) *waker {
	var p [2]int
	if unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	defer unix.Close(p[1])
	w := &waker{fd: p[0]}
	_, err1 := unix.FcntlInt(uintptr(w.fd), unix.F_SETOWN, unix.Getpid())
	_, err2 := unix.FcntlInt(uintptr(w.fd), unix.F_SETSIG, int(unix.SIGCONT))
	if err1 != nil || err2 != nil || ch.send(message{Op: opWaker}, p[1]) != nil {
		unix.Close(w.fd)
		return nil
	}
	return w
}

// arm makes the kernel send the signal from now on, for what comes from now on.
func (w *waker) arm() {
	if w != nil {
		w.drain()
		w.setFlags(unix.O_NONBLOCK | unix.O_ASYNC)
	}
}

// disarm undoes arm.
func (w *waker) disarm() {
	if w != nil {
		w.setFlags(unix.O_NONBLOCK)
	}
}

func (w *waker) setFlags(flags int) {
	unix.FcntlInt(uintptr(w.fd), unix.F_SETFL, flags)
}

// drain empties the pipe, lest it fill up.
func (w *waker) drain() {
	buf := make([]byte, 64)
	for {
		n, err := unix.Read(w.fd, buf)
		if n == 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}

func (w *waker) close() {
	if w != nil {
		unix.Close(w.fd)
	}
}

// setWaker is told, in init, where to write to.
func (s *initState) setWaker(fd int) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	if s.waker > 0 {
		unix.Close(s.waker)
	}
	s.waker = fd
}

// wakeLocked is called with what the caller has just been told. If the last of
// it is a stop, there is nothing to wake the caller for. s.reporting is held, so
// that the signal is sent before anything else is told.
func (s *initState) wakeLocked(news []message) {
	wake := false
	for _, m := range news {
		switch m.Op {
		case opContinued, opExited:
			wake = true
		case opStopped:
			wake = false
		}
	}
	if wake && s.waker > 0 {
		_, _ = unix.Write(s.waker, []byte{0}) // an error: it is full, or nobody is left to wake
	}
}
