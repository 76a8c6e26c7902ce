package sockwatch

import (
	"io"
	"testing"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// closed is a connection that the client has closed first.
func (s *space) closed(t *testing.T) pair {
	t.Helper()
	p := s.pair(t)
	p.client.Close()
	_, err := io.ReadAll(p.server)
	check(t, err)
	p.server.Close()
	return p
}

const (
	closing = opened + " (call close)> FIN-WAIT-1 (segment ACK)> FIN-WAIT-2 (segment FIN)> TIME-WAIT"
	ended   = closing + " (policy time-wait.timeout)> CLOSED"
)

func TestTimeWaitEndsInTime(t *testing.T) {
	s := newSpace(t)
	w, r := watchTraced(t, s)
	before := s.closed(t)
	r.await(t, before.from, closing)

	const length = 700 * time.Millisecond
	w.SetTimeWait(length)
	after := s.closed(t)
	other := s.pair(t)
	for _, p := range []pair{before, after} {
		trs := r.await(t, p.from, ended)
		end := trs[len(trs)-1]
		if end.Source != tcpstate.FromDiag || end.Age < length-2*timerStep {
			t.Errorf("its end: %+v, want one after %v", end, length)
		}
		found, err := sockdiag.Find(s, []sockdiag.Pair{{Local: p.from, Remote: p.to}})
		check(t, err)
		if found[0].OK {
			t.Errorf("the kernel has %+v", found[0])
		}
	}
	if st := w.Stats(); st.Ended != 2 {
		t.Errorf("Stats.Ended = %d, want 2", st.Ended)
	}

	// One that stands is not touched, and the kernel's own length is not shortened.
	w.SetTimeWait(TimeWaitLength)
	last := s.closed(t)
	r.await(t, last.from, closing)
	if got := path(r.of(other.from)); got != opened {
		t.Errorf("the open connection went %q, want %q", got, opened)
	}
	w.SetTimeWait(0)
	r.await(t, last.from, ended)
}

// Without the trace lists find them, and none is left.
func TestTimeWaitEndsWithoutTheTrace(t *testing.T) {
	s := newSpace(t)
	r := new(recording)
	w := New(Config{NS: s, Sink: r.add})
	defer w.Close()
	w.SetTimeWait(0)
	for range 20 {
		s.closed(t)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		left, err := sockdiag.Dump(s, sockdiag.Query{Proto: sockdiag.TCP, States: sockdiag.Of(tcpstate.TimeWait)})
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are left: %v", len(left), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
