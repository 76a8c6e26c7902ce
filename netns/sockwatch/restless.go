package sockwatch

import (
	"container/heap"
	"time"
)

// restless are the endpoints that are to be looked for, the one that is due first
// in front: a heap, for there is one for each TIME-WAIT, and something is due all
// the time.
type restless []*endpoint

// put adds an endpoint, or takes note that it is due at another time.
func (r *restless) put(e *endpoint) {
	if e.place == 0 {
		heap.Push((*restlessHeap)(r), e)
		return
	}
	heap.Fix((*restlessHeap)(r), e.place-1)
}

// remove takes an endpoint out, if it is there.
func (r *restless) remove(e *endpoint) {
	if e.place != 0 {
		heap.Remove((*restlessHeap)(r), e.place-1)
	}
}

// due returns those that are due then. They stay.
func (r restless) due(then time.Time) (all []*endpoint) {
	var below func(i int)
	below = func(i int) {
		if i >= len(r) || r[i].due.After(then) {
			return // and so are those below it
		}
		all = append(all, r[i])
		below(2*i + 1)
		below(2*i + 2)
	}
	below(0)
	return all
}

// restlessHeap implements heap.Interface.
type restlessHeap restless

func (h restlessHeap) Len() int           { return len(h) }
func (h restlessHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h restlessHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *restlessHeap) Push(x any) {
	e := x.(*endpoint)
	*h = append(*h, e)
	e.place = len(*h)
}

func (h *restlessHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.place = 0
	return e
}
