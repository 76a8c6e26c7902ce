package statelog

import (
	"sync/atomic"
	"time"

	"tcpbox/stack/tcpstate"
)

// Rate bounds how many items a reader is given, so that a guest which makes
// connections as fast as it can does not fill a disk. The zero Rate bounds
// nothing. A bound may change at any time.
type Rate struct {
	// OnLimit, if not nil, is called in the reader's goroutine when items begin to
	// be left out, at most once in ten seconds of their time.
	OnLimit func()

	perSecond atomic.Int64
	leftOut   atomic.Uint64
}

// Set changes the bound, in items a second; 0 or less is none.
func (r *Rate) Set(perSecond int) { r.perSecond.Store(int64(max(perSecond, 0))) }

// LeftOut returns how many items have been left out.
func (r *Rate) LeftOut() uint64 { return r.leftOut.Load() }

// Limit returns a function that gives next what the bound lets through of each
// batch: so many items in each second of their own time. A marker stands where
// others are missing; flush gives the one that nothing has come after. Both are
// for one goroutine.
func (r *Rate) Limit(next func([]Item)) (read func([]Item), flush func()) {
	l := &limited{rate: r}
	flush = func() {
		if l.missed > 0 {
			next([]Item{{Dropped: l.missed}})
			l.missed = 0
		}
	}
	return func(items []Item) {
		if r.perSecond.Load() == 0 && l.missed == 0 {
			next(items)
			return
		}
		l.kept = l.kept[:0]
		for i := range items {
			l.add(&items[i])
		}
		if len(l.kept) > 0 {
			next(l.kept)
		}
	}, flush
}

type limited struct {
	rate   *Rate
	second time.Time // when the present one began
	given  int64     // in it
	missed uint64    // since the last marker
	told   time.Time // when OnLimit was called last
	kept   []Item
}

// tellEvery is how often OnLimit is called.
const tellEvery = 10 * time.Second

func (l *limited) add(it *Item) {
	most := l.rate.perSecond.Load()
	at := it.time()
	if age := at.Sub(l.second); age >= time.Second || age < -time.Second {
		l.second, l.given = at, 0
	}
	switch {
	case it.Dropped > 0:
		l.missed += it.Dropped
		return
	case most > 0 && l.given >= most:
		l.missed++
		l.rate.leftOut.Add(1)
		if l.rate.OnLimit != nil && (l.told.IsZero() || at.Sub(l.told) >= tellEvery) {
			l.told = at
			l.rate.OnLimit()
		}
		return
	}
	if l.missed > 0 {
		l.kept = append(l.kept, Item{Dropped: l.missed, Transition: tcpstate.Transition{Time: at}})
		l.missed = 0
	}
	l.given++
	l.kept = append(l.kept, *it)
}
