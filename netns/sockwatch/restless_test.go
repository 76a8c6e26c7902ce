package sockwatch

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestRestless: after any changes the first is the one that is due first, and due
// returns exactly those that are due.
func TestRestless(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	epoch := time.Unix(1e9, 0)
	at := func() time.Time { return epoch.Add(time.Duration(rng.IntN(100)) * time.Second) }
	var r restless
	in := make(map[*endpoint]struct{})
	all := make([]*endpoint, 50)
	for i := range all {
		all[i] = new(endpoint)
	}
	for range 5000 {
		e := all[rng.IntN(len(all))]
		if rng.IntN(3) == 0 {
			e.due = time.Time{} // as settle does it
			r.remove(e)
			delete(in, e)
		} else {
			e.due = at()
			r.put(e)
			in[e] = struct{}{}
		}
		if len(r) != len(in) {
			t.Fatalf("%d are there, want %d", len(r), len(in))
		}
		then, want := at(), 0
		for e := range in {
			if e.due.Before(r[0].due) {
				t.Fatalf("the first is due %v, another one %v", r[0].due, e.due)
			}
			if !e.due.After(then) {
				want++
			}
		}
		got := r.due(then)
		if len(got) != want || slices.ContainsFunc(got, func(e *endpoint) bool { return e.due.After(then) }) {
			t.Fatalf("due returns %d, want the %d that are", len(got), want)
		}
	}
}
