// Package legs folds records of the state log into what people ask of them. It
// is pure: it reads no clock and no file, so a recording and a live log give the
// same answer. It takes records as they come (package statelog reads them) and
// leaves the drawing to others.
//
// Begin with Stat, which counts endpoints by state.
package legs

import (
	"cmp"
	"slices"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// maxCauses is how many causes are counted one by one: many more than there
// are, for a recording may come from anybody.
const maxCauses = 256

const (
	numLegs   = 4
	numStates = int(tcpstate.TimeWait) + 1
)

// Stat counts endpoints by their state: how many are in each now, that is after
// the last record, and how many there were at most at once. It holds a row for
// each endpoint that is not closed. It is not safe for concurrent use.
type Stat struct {
	filter statelog.Filter
	rows   map[endpoint]row
	counts [numLegs][numStates]count
	causes map[tcpstate.Cause]uint64

	records, dropped, jumps uint64
	first, last             time.Time
}

// endpoint is one leg of one connection of one sandbox.
type endpoint struct {
	sandbox string
	conn    tcpstate.Conn
	leg     tcpstate.Leg
}

// row is an endpoint that is not closed.
type row struct {
	state   tcpstate.State
	counted bool // the filter chose it
}

type count struct{ now, peak, entered uint64 }

// NewStat returns a Stat of what the filter chooses. All records are to be
// added: the Stat needs also the others, to know when an endpoint left a state.
func NewStat(filter statelog.Filter) *Stat {
	return &Stat{filter: filter, rows: make(map[endpoint]row), causes: make(map[tcpstate.Cause]uint64)}
}

// Add folds a record in, with what is known of its connection, nil if that is
// nothing. Records come in the order of the log.
func (s *Stat) Add(r *statelog.Record, facts *tcpstate.Facts) {
	if s.first.IsZero() {
		s.first = r.Time
	}
	s.last = r.Time
	if r.Dropped > 0 {
		s.dropped += r.Dropped
		return
	}
	if !r.IsTransition() {
		return
	}
	if s.filter.MatchKnown(r, facts) {
		s.records++
		s.addCause(r.Cause)
	}
	if int(r.Leg) >= numLegs || int(r.To) >= numStates {
		return
	}
	chosen := s.filter.MatchState(r, facts)
	if chosen {
		s.counts[r.Leg][r.To].entered++
	}
	s.move(r, chosen)
}

// move takes an endpoint out of the state that it was in and puts it into the
// one that r led to.
func (s *Stat) move(r *statelog.Record, chosen bool) {
	key := endpoint{r.Sandbox, r.Conn, r.Leg}
	old, known := s.rows[key]
	if known && old.counted {
		s.counts[r.Leg][old.state].now--
	}
	if known && old.state != r.From {
		s.jumps++
	}
	if r.To == tcpstate.Closed {
		delete(s.rows, key)
		return
	}
	s.rows[key] = row{r.To, chosen}
	if chosen {
		c := &s.counts[r.Leg][r.To]
		c.now++
		c.peak = max(c.peak, c.now)
	}
}

func (s *Stat) addCause(c tcpstate.Cause) {
	if _, known := s.causes[c]; !known && len(s.causes) >= maxCauses {
		c = tcpstate.Cause{}
	}
	s.causes[c]++
}

// Report is what a Stat has counted.
type Report struct {
	Records uint64       `json:"records"` // transitions that the filter chose
	Dropped uint64       `json:"dropped"` // records that the log lacks: more than is counted happened
	Jumps   uint64       `json:"jumps"`   // records that do not follow on the one before of their endpoint
	First   time.Time    `json:"first"`   // of all records; zero if there was none
	Last    time.Time    `json:"last"`
	States  []StateCount `json:"states"` // by leg, in the order of RFC 9293
	Causes  []CauseCount `json:"causes"` // the most frequent first
}

// StateCount is a state of a leg that something was in.
type StateCount struct {
	Leg     tcpstate.Leg   `json:"leg"`
	State   tcpstate.State `json:"state"`
	Now     uint64         `json:"now"`     // endpoints in it after the last record; not of CLOSED
	Peak    uint64         `json:"peak"`    // the most at once; not of CLOSED
	Entered uint64         `json:"entered"` // transitions into it
}

// Counted reports whether Now and Peak are counted. They are not for CLOSED, in
// which nothing is any more.
func (c StateCount) Counted() bool { return c.State != tcpstate.Closed }

// CauseCount is how many transitions had a cause.
type CauseCount struct {
	Cause       tcpstate.Cause `json:"cause"`
	Transitions uint64         `json:"transitions"`
}

// Report returns what was counted so far.
func (s *Stat) Report() Report {
	rep := Report{Records: s.records, Dropped: s.dropped, Jumps: s.jumps, First: s.first, Last: s.last}
	for leg := range s.counts {
		for state, c := range s.counts[leg] {
			if c.entered > 0 {
				rep.States = append(rep.States, StateCount{tcpstate.Leg(leg), tcpstate.State(state), c.now, c.peak, c.entered})
			}
		}
	}
	for cause, n := range s.causes {
		rep.Causes = append(rep.Causes, CauseCount{cause, n})
	}
	slices.SortFunc(rep.Causes, func(a, b CauseCount) int {
		return cmp.Or(cmp.Compare(b.Transitions, a.Transitions), cmp.Compare(a.Cause.String(), b.Cause.String()))
	})
	return rep
}
