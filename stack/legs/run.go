package legs

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Run is what the log of one sandbox comes to, from its begin to its end: what
// each leg of each connection went through. What happened while the sandbox was
// being ended is none of the guest's doing, and not in it. See Runs.
type Run struct {
	Began time.Time // of the first record
	Took  time.Duration
	Lives []Life // in the order in which they began

	// Missed is what the run lacks: with any of it, it says nothing for certain.
	Missed Missed
}

// Life is a connection, or a socket of the guest that listens.
type Life struct {
	tcpstate.Facts
	Number int    // counted from 1, over the whole run
	To     string // where it leads, by name if the guest asked for one: "web:80"
	Nth    int    // counted from 1, of those with the same To

	courses [3]Course
	began   time.Time
	whole   time.Duration // from its begin to the end of the run
}

// Course returns what a leg went through.
func (l *Life) Course(leg tcpstate.Leg) *Course {
	if leg < tcpstate.Guest || leg > tcpstate.Upstream {
		return &Course{}
	}
	return &l.courses[leg-tcpstate.Guest]
}

// Course is what one leg of a connection went through.
type Course struct {
	Steps []Step

	// Still is how long the leg had been in the state of the last step when the
	// run ended.
	Still time.Duration
}

// ended reports whether the leg came to its end before the run did.
func (c *Course) ended() bool {
	return len(c.Steps) > 0 && c.Steps[len(c.Steps)-1].To == tcpstate.Closed
}

// Runs makes a Run of records. The zero value is ready.
type Runs struct {
	table  Table
	began  time.Time
	last   time.Time
	end    time.Time // when the sandbox began to end; zero: not seen
	steps  map[tcpstate.Conn][]Step
	missed uint64
}

// maxLives is how many connections a Run holds.
const maxLives = 1 << 16

// EndAt says when the guest ended: what comes later is the sandbox's end. It may
// come after the records.
func (rs *Runs) EndAt(t time.Time) {
	if rs.end.IsZero() || t.Before(rs.end) {
		rs.end = t
	}
}

// Add folds a record in. Records come in the order of the log, of one sandbox.
func (rs *Runs) Add(r *statelog.Record) {
	if rs.steps == nil {
		rs.steps = make(map[tcpstate.Conn][]Step)
		rs.table = Table{MaxRows: maxLives, MaxEnded: maxLives}
		rs.began = r.Time
	}
	if r.Time.After(rs.last) {
		rs.last = r.Time
	}
	rs.table.Add(r)
	if !r.IsTransition() {
		return
	}
	if ending(r) {
		rs.EndAt(r.Time)
	}
	if r.Leg == tcpstate.Stack && (r.From == tcpstate.Listen || r.To == tcpstate.Listen) {
		return // it is tcpbox's own
	}
	if rs.steps[r.Conn] == nil && len(rs.steps) >= maxLives {
		rs.missed++
		return
	}
	rs.steps[r.Conn] = append(rs.steps[r.Conn], Step{r.Leg, r.From, r.To, r.Cause, r.Source, r.Time, r.Age})
}

// ending reports whether the record is of a sandbox that is being ended: it
// closes its own listeners first.
func ending(r *statelog.Record) bool {
	return r.Cause == tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "stopped"} ||
		r.Leg == tcpstate.Stack && r.From == tcpstate.Listen && r.To == tcpstate.Closed
}

// Run returns the run, when all records have been added.
func (rs *Runs) Run() *Run {
	run := &Run{Began: rs.began, Missed: rs.table.Missed()}
	run.Missed.Records += rs.missed
	end := rs.end
	if end.IsZero() {
		end = rs.last
	}
	run.Took = end.Sub(rs.began)
	nth := make(map[string]int)
	for _, row := range rs.table.Rows(statelog.Filter{}, true) {
		life := Life{Facts: row.Facts, To: leadsTo(&row)}
		for _, s := range rs.steps[row.Conn] {
			if s.Leg < tcpstate.Guest || s.Leg > tcpstate.Upstream || !s.Time.Before(end) && !rs.end.IsZero() {
				continue
			}
			c := life.Course(s.Leg)
			c.Steps = append(c.Steps, s)
			c.Still = end.Sub(s.Time)
			if life.began.IsZero() || s.Time.Before(life.began) {
				life.began = s.Time
			}
		}
		if life.began.IsZero() {
			continue
		}
		life.whole = end.Sub(life.began)
		run.Lives = append(run.Lives, life)
	}
	slices.SortStableFunc(run.Lives, func(a, b Life) int { return a.began.Compare(b.began) })
	for i := range run.Lives {
		l := &run.Lives[i]
		nth[l.To]++
		l.Number, l.Nth = i+1, nth[l.To]
	}
	return run
}

// leadsTo says where a connection leads, in words that are the same in another
// run of the same program.
func leadsTo(r *Row) string {
	peer := r.Peer
	switch {
	case !peer.IsValid(): // it listens
		return "listener " + steady(r.Guest)
	case r.Direction == tcpstate.Inbound:
		return "inbound " + steady(r.Guest)
	case r.Name != "":
		return r.Name + ":" + strconv.Itoa(int(peer.Port()))
	}
	return steady(peer)
}

// Ports that a kernel gives out by itself, of which no run has the same: the
// default of net.ipv4.ip_local_port_range.
const (
	firstGivenOut = 32768
	lastGivenOut  = 60999
)

// steady is an address without a port that is another in each run.
func steady(at netip.AddrPort) string {
	if p := at.Port(); p >= firstGivenOut && p <= lastGivenOut {
		host := at.Addr().String()
		if at.Addr().Is6() {
			host = "[" + host + "]"
		}
		return host + ":*"
	}
	return at.String()
}

// Entered counts how often the legs of a run entered a state.
func (r *Run) Entered(leg tcpstate.Leg, s tcpstate.State) int {
	n := 0
	for i := range r.Lives {
		for _, step := range r.Lives[i].Course(leg).Steps {
			if step.To == s {
				n++
			}
		}
	}
	return n
}
