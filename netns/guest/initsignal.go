package guest

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that are passed on to the guest.
var forwarded = []os.Signal{
	unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1,
	unix.SIGUSR2, unix.SIGTSTP, unix.SIGWINCH, unix.SIGCONT,
}

// notify begins to receive the forwarded signals, except those that this
// process was told to ignore from its birth: the guest shall ignore them too.
func notify(ch chan<- os.Signal) {
	for _, sig := range forwarded {
		if !signal.Ignored(sig) {
			signal.Notify(ch, sig)
		}
	}
}

// How far apart in time the same signal may arrive at two processes that it
// was sent to at once. When the caller speaks of a signal, init's own copy has
// been sent, and has only to pass through this process. On a busy machine that
// too takes its time, so init then sends itself probeSignal, and waits for
// it as well as for sameSignal, but for no longer than lately. The caller may be
// kept from speaking for long: init remembers its copy for lately.
const (
	sameSignal = 50 * time.Millisecond
	lately     = time.Second

	probeSignal = syscall.Signal(64) // the last one: the kernel delivers the others first
)

// signalWatch knows which signals init itself has received of late. Init and
// the guest begin in the caller's process group, so a signal that was sent to
// the group, by the terminal or by kill(1), reaches all three; then init's own
// copy is the evidence that the guest has had it. It is a heuristic, for Go
// does not show who sent a signal.
type signalWatch struct {
	mu       sync.Mutex
	received map[os.Signal][]time.Time
	probes   int           // how many came
	arrived  chan struct{} // closed and replaced at each arrival
}

// watchSignals begins to watch. Without a handler the signals would either end
// a pid 1, or be lost.
func watchSignals() *signalWatch {
	w := &signalWatch{received: map[os.Signal][]time.Time{}, arrived: make(chan struct{})}
	ch := make(chan os.Signal, 256)
	notify(ch)
	signal.Notify(ch, probeSignal)
	go w.collect(ch)
	return w
}

// collect lasts as long as init.
func (w *signalWatch) collect(ch <-chan os.Signal) {
	for sig := range ch {
		w.mu.Lock()
		if sig == probeSignal {
			w.probes++
		} else {
			w.received[sig] = append(w.fresh(sig), time.Now())
		}
		close(w.arrived)
		w.arrived = make(chan struct{})
		w.mu.Unlock()
	}
}

// fresh drops what was received too long ago. w.mu is held.
func (w *signalWatch) fresh(sig os.Signal) []time.Time {
	times := w.received[sig]
	for len(times) > 0 && time.Since(times[0]) > lately {
		times = times[1:]
	}
	return times
}

// take waits for init's own copy of a signal, and uses it up. It reports false
// when there is none, which takes sameSignal.
func (w *signalWatch) take(sig os.Signal) bool {
	w.mu.Lock()
	before := w.probes
	w.mu.Unlock()
	if err := unix.Kill(unix.Getpid(), probeSignal); err != nil {
		before-- // there is none to wait for
	}
	enough, last := time.NewTimer(sameSignal), time.NewTimer(lately)
	defer enough.Stop()
	defer last.Stop()
	waited := false
	for {
		w.mu.Lock()
		times := w.fresh(sig)
		if len(times) > 0 {
			w.received[sig] = times[1:]
			w.mu.Unlock()
			return true
		}
		arrived, probed := w.arrived, w.probes > before
		w.mu.Unlock()
		if waited && probed {
			return false
		}
		select {
		case <-arrived:
		case <-enough.C:
			waited = true
		case <-last.C:
			return false
		}
	}
}

// forward sends the guest a signal that the caller has received, unless the
// guest was sent it as well. The caller knew of the guest's stops up to stop: if
// the guest has stopped since, a CONT is older than that. It does not block its
// caller.
func (s *initState) forward(sig syscall.Signal, stop int) {
	s.mu.Lock()
	pid, ended := s.pid, s.ended
	if pid == 0 {
		s.early = append(s.early, sig)
	}
	s.mu.Unlock()
	if pid == 0 || ended || sig == unix.SIGCONT && !s.known(stop) {
		return
	}
	go func() {
		// A guest that left the group, such as a shell with job control, is
		// not reached by what is sent to the group.
		if sharesGroup(pid) && s.signals.take(sig) {
			return
		}
		s.kill(pid, sig)
	}()
}

// kill signals the guest, unless it has ended.
func (s *initState) kill(pid int, sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		unix.Kill(pid, sig)
	}
}

// sharesGroup says whether the guest is in init's process group. The group's
// number is 0 in this namespace, for its leader is outside.
func sharesGroup(pid int) bool {
	theirs, err := unix.Getpgid(pid)
	return err == nil && theirs == unix.Getpgrp()
}

// resume continues the guest if it is in that stop of its, counted from 1, and
// nobody else continues it.
func (s *initState) resume(stop int) {
	go func() {
		// What was sent to the group has reached the guest, or does so now.
		for end := time.Now().Add(sameSignal); s.inStop(stop); time.Sleep(time.Millisecond) {
			s.mu.Lock()
			pid := s.pid
			s.mu.Unlock()
			if !sharesGroup(pid) || time.Now().After(end) {
				s.kill(pid, unix.SIGCONT)
				return
			}
		}
	}()
}

// known reports whether the guest, which has been started, has not stopped again
// since that stop.
func (s *initState) known(stop int) bool {
	s.report()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stops <= stop
}

// inStop reports whether the guest is stopped, and has been since that stop.
func (s *initState) inStop(stop int) bool {
	s.report()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped && s.stops == stop
}
