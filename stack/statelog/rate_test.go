package statelog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/stack/tcpstate"
)

func TestRate(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	at := func(ms ...int) []Item {
		var items []Item
		for _, n := range ms {
			items = append(items, Item{Transition: tcpstate.Transition{Time: begin.Add(time.Duration(n) * time.Millisecond)}})
		}
		return items
	}
	lost := Item{Dropped: 7}
	for _, row := range []struct {
		rule    string
		rate    int
		batches [][]Item
		want    string // milliseconds, and !N for a marker
		leftOut uint64
	}{
		{"no bound", 0, [][]Item{at(0, 1, 2), {lost}, at(3)}, "0 1 2 !7 3", 0},
		{"so many in a second, over batches", 2, [][]Item{at(0, 1), at(2, 3)}, "0 1 !2", 2},
		{"a second later there is room again, behind a marker", 2, [][]Item{at(0, 1, 2, 999, 1000, 1001, 1002)}, "0 1 !2 1000 1001 !1", 3},
		{"what was lost before counts in the marker", 1, [][]Item{at(0, 1), {lost}, at(2000)}, "0 !8 2000", 1},
		{"a clock that was set back begins anew", 1, [][]Item{at(5000, 5001, 100, 101)}, "5000 !1 100 !1", 2},
	} {
		told := 0
		r := Rate{OnLimit: func() { told++ }}
		r.Set(row.rate)
		var got []string
		read, flush := r.Limit(func(items []Item) {
			for _, it := range items {
				if it.Dropped > 0 {
					got = append(got, fmt.Sprintf("!%d", it.Dropped))
				} else {
					got = append(got, fmt.Sprint(it.Transition.Time.Sub(begin).Milliseconds()))
				}
			}
		})
		for _, batch := range row.batches {
			before := slices.Clone(batch)
			read(batch)
			if !slices.Equal(before, batch) {
				t.Errorf("%s: the batch was written to", row.rule)
			}
		}
		flush()
		if s := strings.Join(got, " "); s != row.want || r.LeftOut() != row.leftOut {
			t.Errorf("%s: %s and %d left out, want %s and %d", row.rule, s, r.LeftOut(), row.want, row.leftOut)
		}
		if (told == 1) != (row.leftOut > 0) {
			t.Errorf("%s: told %d times", row.rule, told)
		}
	}
}

// A bound can be set and taken away while the log runs.
func TestRateLive(t *testing.T) {
	var r Rate
	n := 0
	read, _ := r.Limit(func(items []Item) { n += len(items) })
	batch := make([]Item, 10)
	for i := range batch {
		batch[i].Transition.Time = time.Unix(1_700_000_000, 0)
	}
	read(batch)
	r.Set(3)
	read(batch)
	r.Set(-1)
	read(batch)
	if n != 10+3+1+10 { // with the marker for the seven
		t.Errorf("%d items, want 24", n)
	}
}
