package statelog

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tcpbox/stack/tcpstate"
)

// numbered returns a transition that says who pushed it and which of theirs it
// is.
func numbered(producer, n int) tcpstate.Transition {
	return tcpstate.Transition{Time: testTime, Leg: tcpstate.Leg(producer), Conn: tcpstate.Conn(n)}
}

func TestQueueKeepsOrderAndMarksWhatIsMissing(t *testing.T) {
	// Eleven into a queue of four, in two bursts with a look in between: the
	// markers stand where the missing ones would have been.
	q := NewQueue(4)
	var got []Item
	collect := func(items []Item) { got = append(got, items...) }
	n := 0
	push := func(count int) {
		for range count {
			n++
			q.Push(numbered(0, n))
		}
	}
	look := func() {
		for {
			batch := q.take(make([]Item, 0, batchItems))
			if len(batch) == 0 {
				return
			}
			collect(batch)
		}
	}
	push(6) // 5 and 6 are missing, and the queue is full
	look()
	push(1) // 7
	push(4) // 8 to 10; 11 is missing
	q.Close()
	q.Push(numbered(0, 12)) // too late, and nobody's fault
	if err := q.Run(t.Context(), collect); err != nil {
		t.Fatal(err)
	}
	var text []int // markers as negative numbers
	for _, it := range got {
		if it.Dropped > 0 {
			text = append(text, -int(it.Dropped))
			continue
		}
		text = append(text, int(it.Transition.Conn))
	}
	want := []int{1, 2, 3, 4, -2, 7, 8, 9, 10, -1}
	if len(text) != len(want) {
		t.Fatalf("got %v, want %v", text, want)
	}
	for i := range want {
		if text[i] != want[i] {
			t.Fatalf("got %v, want %v", text, want)
		}
	}
	if q.Dropped() != 4 {
		t.Errorf("Dropped() = %d, want 4", q.Dropped())
	}
}

// Many producers, a queue that is far too small and a consumer that is slow now
// and then: each producer's order is kept, each gap is covered by markers, and
// what came out and what was dropped add up. The positions run over the end of
// their 32 bits meanwhile.
func TestQueueUnderManyProducers(t *testing.T) {
	const producers, each = 8, 20_000
	for _, capacity := range []int{2, 8, 1024} {
		q := newQueueAt(capacity, math.MaxUint32-5000)
		var wg sync.WaitGroup
		for p := range producers {
			wg.Go(func() {
				for n := range each {
					q.Push(numbered(p, n+1))
				}
			})
		}
		go func() {
			wg.Wait()
			q.Close()
		}()
		var last [producers]int
		var delivered, marked, gaps uint64
		err := q.Run(context.Background(), func(items []Item) {
			for _, it := range items {
				if it.Dropped > 0 {
					marked += it.Dropped
					continue
				}
				delivered++
				p, n := int(it.Transition.Leg), int(it.Transition.Conn)
				if n <= last[p] {
					t.Fatalf("producer %d: %d after %d", p, n, last[p])
				}
				gaps += uint64(n - last[p] - 1)
				last[p] = n
				if gaps > marked {
					t.Fatalf("%d are missing and only %d marked so far", gaps, marked)
				}
			}
			if rand.IntN(50) == 0 {
				time.Sleep(10 * time.Microsecond)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if marked != q.Dropped() || delivered+marked != producers*each {
			t.Errorf("capacity %d: %d delivered, %d marked, %d counted as dropped, want %d in all", capacity, delivered, marked, q.Dropped(), producers*each)
		}
	}
}

func TestQueueHandsOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(0)
		got := make(chan tcpstate.Conn)
		ended := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			ended <- q.Run(ctx, func(items []Item) {
				for _, it := range items {
					got <- it.Transition.Conn
				}
			})
		}()
		for n := range 100 {
			synctest.Wait() // the consumer sleeps
			q.Push(numbered(0, n))
			if c := <-got; c != tcpstate.Conn(n) {
				t.Fatalf("got %d, want %d", c, n)
			}
		}
		synctest.Wait()
		if err := q.Run(ctx, nil); err == nil {
			t.Error("a second Run was let in")
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run after its context ended: %v", err)
		}
		q.Push(numbered(0, 7))
		go func() { ended <- q.Run(t.Context(), func(items []Item) { got <- items[0].Transition.Conn }) }()
		if c := <-got; c != 7 {
			t.Errorf("a new Run got %d, want 7, which was left", c)
		}
		synctest.Wait()
		q.Close()
		q.Close()
		if err := <-ended; err != nil {
			t.Errorf("Run after Close: %v", err)
		}
	})
}

func TestPushAllocatesNothing(t *testing.T) {
	q := NewQueue(64)
	transition := testTransition()
	if n := testing.AllocsPerRun(1000, func() { q.Push(transition) }); n != 0 {
		t.Errorf("Push allocates %v times", n)
	}
}

func TestFan(t *testing.T) {
	var order []int
	Fan(func([]Item) { order = append(order, 1) }, func([]Item) { order = append(order, 2) })(nil)
	if len(order) != 2 || order[0] != 1 || order[1] != 2 {
		t.Errorf("sinks were called in the order %v, want 1, 2", order)
	}
}

func BenchmarkPush(b *testing.B) {
	for _, bm := range []struct {
		name     string
		consumer bool
		parallel bool
	}{{"full", false, false}, {"one", true, false}, {"parallel", true, true}} {
		b.Run(bm.name, func(b *testing.B) {
			q := NewQueue(0)
			transition := testTransition()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if bm.consumer {
					q.Run(context.Background(), func([]Item) {})
				}
			}()
			b.ReportAllocs()
			if bm.parallel {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						q.Push(transition)
					}
				})
			} else {
				for b.Loop() {
					q.Push(transition)
				}
			}
			q.Close()
			<-ended
			b.ReportMetric(float64(q.Dropped())/float64(b.N), "dropped/op")
		})
	}
}
