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
	running sync.WaitGroup
}

// readers joins what OnTransition and OnRecords want.
func (c *Config) readers() func([]statelog.Item) {
	if c.OnTransition == nil {
		return c.OnRecords
	}
	return func(items []statelog.Item) {
		for i := range items {
			if items[i].Dropped == 0 && items[i].Facts == nil {
				c.OnTransition(items[i].Transition)
			}
		}
		if c.OnRecords != nil {
			c.OnRecords(items)
		}
	}
}

// newRecorder starts a recorder for the sandbox called name. Close ends it.
func newRecorder(name string, read func([]statelog.Item)) *recorder {
	r := &recorder{Queue: statelog.NewQueue(0), present: newPresent(name)}
	if read == nil {
		read = r.take
	} else {
		read = statelog.Fan(r.take, read)
	}
	r.running.Go(func() { _ = r.Run(context.Background(), read) }) // ends with Close
	return r
}

// Close hands over what is left and returns when it has been read.
func (r *recorder) Close() {
	r.Queue.Close()
	r.running.Wait()
	r.end()
}
