package tcpbox

import (
	"context"
	"sync"

	"tcpbox/stack/statelog"
)

// recorder carries transitions from where they are seen, under locks of the
// packet path, to whoever reads them.
type recorder struct {
	*statelog.Queue
	present
	rate    *statelog.Rate
	running sync.WaitGroup
}

// readers joins what OnTransition and OnRecords want.
func (c *Config) readers() func([]statelog.Item) {
	if c.OnTransition == nil {
		return c.OnRecords
	}
	return func(items []statelog.Item) {
		for i := range items {
			if items[i].IsTransition() {
				c.OnTransition(items[i].Transition)
			}
		}
		if c.OnRecords != nil {
			c.OnRecords(items)
		}
	}
}

// newRecorder starts a recorder for the sandbox called name, with room for so many
// items, or the default of statelog.NewQueue if that is zero. limited is told when
// the limit of the log begins to leave records out. Close ends it.
func newRecorder(name string, room int, read func([]statelog.Item), limited func()) *recorder {
	r := &recorder{Queue: statelog.NewQueue(room), present: newPresent(name), rate: &statelog.Rate{OnLimit: limited}}
	flush := func() {}
	if read == nil {
		read = r.take
	} else {
		var limited func([]statelog.Item)
		limited, flush = r.rate.Limit(read)
		read = statelog.Fan(r.take, limited)
	}
	r.running.Go(func() {
		_ = r.Run(context.Background(), read) // ends with Close
		flush()
	})
	return r
}

// limit sets how many records a second readers are given; 0 is all. What is known
// of the present is always whole.
func (r *recorder) limit(perSecond int) { r.rate.Set(perSecond) }

// Close hands over what is left and returns when it has been read.
func (r *recorder) Close() {
	r.Queue.Close()
	r.running.Wait()
	r.end()
}
