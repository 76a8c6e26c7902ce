package lab

import (
	"slices"
	"sync"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// endpoints follows the ends of a sandbox's connections by the state log.
type endpoints struct {
	mu      sync.Mutex
	rows    map[tcpstate.Conn]*endpoint
	entered map[tcpstate.Leg]map[tcpstate.State]int
}

// endpoint is what the log has of a connection.
type endpoint struct {
	stack, guest tcpstate.State // zero: there is none, or none any more
	pid          int            // of whose it is in the guest; 0: not known
}

func newEndpoints() *endpoints {
	return &endpoints{
		rows:    make(map[tcpstate.Conn]*endpoint),
		entered: map[tcpstate.Leg]map[tcpstate.State]int{tcpstate.Guest: {}, tcpstate.Stack: {}, tcpstate.Upstream: {}},
	}
}

// read takes a part of the log.
func (e *endpoints) read(items []statelog.Item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	of := func(conn tcpstate.Conn) *endpoint {
		row := e.rows[conn]
		if row == nil {
			row = new(endpoint)
			e.rows[conn] = row
		}
		return row
	}
	for i := range items {
		it := &items[i]
		if f := it.Facts; f != nil && f.PID != 0 {
			of(f.Conn).pid = f.PID
		}
		if !it.IsTransition() {
			continue
		}
		t := &it.Transition
		e.entered[t.Leg][t.To]++
		state := t.To
		if state == tcpstate.Closed || state == tcpstate.Listen {
			state = 0
		}
		switch t.Leg {
		case tcpstate.Stack:
			of(t.Conn).stack = state
		case tcpstate.Guest:
			of(t.Conn).guest = state
		}
	}
}

// count returns how many endpoints of the stack have a connection that has not
// ended, and how many are in TIME-WAIT.
func (e *endpoints) count() (open, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, row := range e.rows {
		switch row.stack {
		case 0:
		case tcpstate.TimeWait:
			waiting++
		default:
			open++
		}
	}
	return open, waiting
}

// in returns how many connections are in a state at a leg; of the guest those of
// a process alone, if pid is not zero.
func (e *endpoints) in(leg tcpstate.Leg, state tcpstate.State, pid int) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, row := range e.rows {
		if leg == tcpstate.Stack && row.stack == state || leg == tcpstate.Guest && row.guest == state && (pid == 0 || row.pid == pid) {
			n++
		}
	}
	return n
}

// enteredBy returns how often a leg has entered a state; of no state, how many it has
// entered.
func (e *endpoints) enteredBy(leg tcpstate.Leg, state tcpstate.State) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if state == tcpstate.Unknown {
		return len(e.entered[leg])
	}
	return e.entered[leg][state]
}

// conns are the connections that the log has told of, in order.
func (e *endpoints) conns() []tcpstate.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []tcpstate.Conn
	for conn := range e.rows {
		all = append(all, conn)
	}
	slices.Sort(all)
	return all
}
