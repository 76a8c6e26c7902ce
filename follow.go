package tcpbox

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Limits of what is kept of the log for those who ask.
const (
	// MaxFollowers is how many Followers a sandbox has at once.
	MaxFollowers = 16

	// MaxLast is how many of the last records a sandbox keeps.
	MaxLast = 1024

	followerRecords = 4096 // that may wait to be read
)

// ErrTooManyFollowers is returned by Sandbox.Follow when there are MaxFollowers.
var ErrTooManyFollowers = errors.New("the log has as many followers as it takes")

// present is what is known now: the connections, the counts, the last records, and
// those who follow.
type present struct {
	name string

	mu        sync.Mutex
	table     legs.Table
	stat      *legs.Stat
	sentAgain uint64            // by the host, of connections that have ended
	last      []statelog.Record // a ring: the oldest is at next when it is full
	next      int
	followers map[*Follower]struct{}
	ended     bool
}

func newPresent(name string) present {
	return present{name: name, stat: legs.NewStat(statelog.Filter{}), followers: make(map[*Follower]struct{})}
}

// take folds a part of the log in. It waits for nobody.
func (p *present) take(items []statelog.Item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range items {
		r := items[i].Record(p.name)
		var facts *tcpstate.Facts
		if row := p.table.Add(&r); row != nil {
			facts = &row.Facts
		}
		p.stat.Add(&r, facts)
		p.countSentAgain(r.Facts)
		if len(p.last) < MaxLast {
			p.last = append(p.last, r)
		} else {
			p.last[p.next] = r
			p.next = (p.next + 1) % MaxLast
		}
		for f := range p.followers {
			f.offer(r)
		}
	}
}

// end tells the followers that there is nothing to come.
func (p *present) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for f := range p.followers {
		f.finishLocked()
	}
}

// A Follower is given the records of the log as they come. Who is too slow lacks
// some, with a marker in their place; nobody waits for it.
type Follower struct {
	present *present
	records chan statelog.Record
	rest    []statelog.Record // of the past, to be given first
	missed  uint64            // guarded by present.mu
}

// offer gives the follower a record, if there is room. present.mu is held.
func (f *Follower) offer(r statelog.Record) {
	if f.missed > 0 {
		marker := statelog.Record{Time: r.Time, Sandbox: r.Sandbox, Dropped: f.missed}
		select {
		case f.records <- marker:
			f.missed = 0
		default:
			f.missed += max(1, r.Dropped)
			return
		}
	}
	select {
	case f.records <- r:
	default:
		f.missed += max(1, r.Dropped)
	}
}

func (f *Follower) finishLocked() {
	if f.missed > 0 {
		select {
		case f.records <- statelog.Record{Time: time.Now(), Sandbox: f.present.name, Dropped: f.missed}:
		default:
		}
	}
	delete(f.present.followers, f)
	close(f.records)
}

// Next returns the next record, and waits for it. io.EOF: the sandbox has ended.
func (f *Follower) Next(ctx context.Context) (statelog.Record, error) {
	if len(f.rest) > 0 {
		r := f.rest[0]
		f.rest = f.rest[1:]
		return r, nil
	}
	select {
	case r, more := <-f.records:
		if !more {
			return r, io.EOF
		}
		return r, nil
	case <-ctx.Done():
		return statelog.Record{}, context.Cause(ctx)
	}
}

// Waiting reports whether Next would return without waiting.
func (f *Follower) Waiting() bool { return len(f.rest) > 0 || len(f.records) > 0 }

// Close ends the following. It is safe to call twice, and after the end.
func (f *Follower) Close() {
	f.present.mu.Lock()
	defer f.present.mu.Unlock()
	if _, follows := f.present.followers[f]; follows {
		f.finishLocked()
	}
}

// FollowOptions says what a Follower is given before what is to come.
type FollowOptions struct {
	// Rows gives first what the connections are now: records that make the same
	// rows in an empty legs.Table (legs.Row.Records).
	Rows bool

	// Ended gives those as well that ended lately.
	Ended bool

	// Last gives so many of the last records, at most MaxLast.
	Last int

	// Past gives nothing of what is to come: then Next returns io.EOF.
	Past bool
}

// Follow follows the log, from this moment on or from before. Whoever calls it
// closes the Follower.
func (s *Sandbox) Follow(opt FollowOptions) (*Follower, error) {
	carried := map[tcpstate.Conn]*tcpstate.Facts{}
	if opt.Rows && s.gateway != nil {
		for _, f := range s.carried() {
			carried[f.Conn] = f
		}
	}
	p := &s.log.present
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.followers) >= MaxFollowers && !opt.Past {
		return nil, ErrTooManyFollowers
	}
	f := &Follower{present: p, records: make(chan statelog.Record, followerRecords)}
	if opt.Past {
		f.records = make(chan statelog.Record)
	}
	if opt.Rows {
		f.rest = p.rowsLocked(opt.Ended, carried)
	}
	f.rest = append(f.rest, p.lastLocked(opt.Last)...)
	if opt.Past || p.ended {
		close(f.records)
		return f, nil
	}
	p.followers[f] = struct{}{}
	return f, nil
}

// rowsLocked are the records that make the rows. carried is what is known since of
// those that are relayed.
func (p *present) rowsLocked(ended bool, carried map[tcpstate.Conn]*tcpstate.Facts) (records []statelog.Record) {
	for _, row := range p.table.Rows(statelog.Filter{}, ended) {
		if f := carried[row.Conn]; f != nil {
			row.Facts.Add(f)
		}
		records = append(records, row.Records()...)
	}
	return records
}

// lastLocked are the last n records.
func (p *present) lastLocked(n int) []statelog.Record {
	n = min(max(n, 0), len(p.last))
	all := append(append([]statelog.Record(nil), p.last[p.next:]...), p.last[:p.next]...)
	return all[len(all)-n:]
}
