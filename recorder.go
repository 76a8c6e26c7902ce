package tcpbox

import (
	"sync"

	"tcpbox/stack/tcpstate"
)

type recorder struct {
	ch   chan tcpstate.Transition
	done sync.WaitGroup
}

func newRecorder(name string, on func(tcpstate.Transition)) *recorder {
	r := &recorder{ch: make(chan tcpstate.Transition, 1<<16)}
	r.done.Go(func() {
		for t := range r.ch {
			if on != nil {
				on(t)
			}
		}
	})
	return r
}

func (r *recorder) sink(t tcpstate.Transition) {
	select {
	case r.ch <- t:
	default:
	}
}

func (r *recorder) close() { close(r.ch); r.done.Wait() }
