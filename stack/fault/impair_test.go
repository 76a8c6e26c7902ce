package fault

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"tcpbox/policy"
)

// The packets of these tests are datagrams with a number; the clock stands still
// between them.

// TestLoss: the losses are as many as asked, and spread as chance spreads them.
// The critical values are those of the chi-square distribution for p = 0.001: the
// seed is fixed, so that the test goes one way.
func TestLoss(t *testing.T) {
	const packets, percent = 20000, 5
	for _, dir := range []int{toGuest, toStack} {
		n := packets
		if dir == toStack {
			n = 4000 // each waits for the reader
		}
		b := newBox(t, Config{Seed: 7}, "loss 5%")
		for i := range n {
			b.send(dir, datagram(dir, i, 3))
		}
		got := numbers(t, b.arrived(dir))
		lost := float64(n - len(got))
		want := float64(n) * percent / 100
		chi := (lost-want)*(lost-want)/want + (lost-want)*(lost-want)/(float64(n)-want)
		if chi > 10.83 { // one degree of freedom
			t.Errorf("direction %d: %v of %d were lost, want about %v (chi-square %.1f)", dir, lost, n, want, chi)
		}
		// How many arrive between two losses is distributed geometrically: in four
		// classes of the same probability.
		arrived := map[int]bool{}
		for _, i := range got {
			arrived[i] = true
		}
		var runs [4]float64
		run, total := 0, 0.0
		for i := range n {
			if arrived[i] {
				run++
				continue
			}
			below := 1 - math.Pow(1-percent/100.0, float64(run)+0.5) // of the run, continuous
			runs[min(3, int(below*4))]++
			run, total = 0, total+1
		}
		chi = 0
		for _, r := range runs {
			chi += (r - total/4) * (r - total/4) / (total / 4)
		}
		if chi > 16.27 { // three degrees of freedom
			t.Errorf("direction %d: the runs between losses fall into %v (chi-square %.1f)", dir, runs, chi)
		}
		if r := rule0(b); r.Matched != uint64(n) || r.Acted != uint64(lost) {
			t.Errorf("counted %+v, want %d matched and %v acted", r, n, lost)
		}
	}
}

// TestSameSeed: the same packets go the same way, in each direction, whatever goes
// on in the other one.
func TestSameSeed(t *testing.T) {
	rules := []string{"loss 3%", "dup 4%", "delay 5ms ±5ms", "corrupt 2%", "reorder 3% by 2"}
	run := func(seed uint64, others bool) [2][]arrival {
		b := newBox(t, Config{Seed: seed}, rules...)
		for i := range 400 {
			b.send(toGuest, datagram(toGuest, i, 40))
			if others || i%2 == 0 {
				b.send(toStack, datagram(toStack, i, 40))
			}
			b.advance(time.Millisecond, time.Millisecond)
		}
		b.advance(100*time.Millisecond, time.Millisecond)
		return [2][]arrival{b.arrived(toStack), b.arrived(toGuest)}
	}
	// When the reader sees a packet is up to its goroutine: what goes to the guest
	// is compared with its times too.
	same := func(dir int, a, b []arrival) bool {
		return slices.EqualFunc(a, b, func(a, b arrival) bool {
			return bytes.Equal(a.data, b.data) && (a.at == b.at || dir == toStack)
		})
	}
	first, again, other, fewer := run(1, true), run(1, true), run(2, true), run(1, false)
	for dir := range first {
		if !same(dir, first[dir], again[dir]) {
			t.Errorf("direction %d: the same seed went another way", dir)
		}
		if same(dir, first[dir], other[dir]) {
			t.Errorf("direction %d: another seed went the same way", dir)
		}
	}
	if !same(toGuest, first[toGuest], fewer[toGuest]) {
		t.Error("what the guest sends changes what the stack's packets go through")
	}
}

// TestDelay: each packet arrives when it is due, to the nanosecond, and lateness
// of a timer does not add up.
func TestDelay(t *testing.T) {
	b := newBox(t, Config{}, "delay 100ms")
	for i := range 500 {
		b.send(toGuest, datagram(toGuest, i, 10))
		b.clock.advance(777 * time.Microsecond)
	}
	b.clock.advance(time.Second)
	got := b.arrived(toGuest)
	if len(got) != 500 {
		t.Fatalf("%d arrived, want 500", len(got))
	}
	for i, a := range got {
		if want := time.Duration(i)*777*time.Microsecond + 100*time.Millisecond; a.at != want {
			t.Fatalf("packet %d arrived at %v, want %v", i, a.at, want)
		}
	}
}

// TestJitter: the delays are spread evenly over delay ± jitter: ten classes, chi-
// square for p = 0.001.
func TestJitter(t *testing.T) {
	for _, rule := range []string{"delay 100ms ±20ms", "delay 100ms ±20ms ordered"} {
		b := newBox(t, Config{Seed: 3}, rule)
		const packets, apart = 5000, 50 * time.Millisecond // further apart than the jitter: order does not matter
		var classes [10]float64
		var sum time.Duration
		for i := range packets {
			b.send(toGuest, datagram(toGuest, i, 10))
			b.clock.advance(apart)
		}
		b.clock.advance(time.Second)
		for i, a := range b.arrived(toGuest) {
			late := a.at - time.Duration(i)*apart
			if late < 80*time.Millisecond || late > 120*time.Millisecond {
				t.Fatalf("%s: packet %d took %v", rule, i, late)
			}
			classes[min(9, int((late-80*time.Millisecond)/(4*time.Millisecond)))]++
			sum += late
		}
		chi := 0.0
		for _, n := range classes {
			chi += (n - packets/10) * (n - packets/10) / (packets / 10)
		}
		if chi > 27.88 { // nine degrees of freedom
			t.Errorf("%s: the delays fall into %v (chi-square %.1f)", rule, classes, chi)
		}
		if mean := sum / packets; mean < 99500*time.Microsecond || mean > 100500*time.Microsecond {
			t.Errorf("%s: the mean is %v, want 100ms within 0.5 ms", rule, mean)
		}
	}
}

// TestJitterOrder: with jitter packets overtake, unless the rule forbids it.
func TestJitterOrder(t *testing.T) {
	for rule, ordered := range map[string]bool{"delay 10ms ±10ms": false, "delay 10ms ±10ms ordered": true} {
		b := newBox(t, Config{Seed: 1}, rule)
		for i := range 300 {
			b.send(toGuest, datagram(toGuest, i, 10))
			b.clock.advance(time.Millisecond)
		}
		b.clock.advance(time.Second)
		got := numbers(t, b.arrived(toGuest))
		if len(got) != 300 || slices.IsSorted(got) != ordered {
			t.Errorf("%s: %d arrived, in order: %v, want %v", rule, len(got), slices.IsSorted(got), ordered)
		}
	}
}

// TestRate: a line that is always busy carries what was asked to the byte, and
// packets of any length.
func TestRate(t *testing.T) {
	const bits = 3_000_000 // per second: no packet takes whole nanoseconds
	b := newBox(t, Config{}, "rate 3mbit queue 10m")
	total := 0
	var want []time.Duration
	for i := range 3000 {
		size := 28 + 3 + i*37%1400
		b.send(toGuest, datagram(toGuest, i, size-28))
		total += size
		want = append(want, time.Duration(int64(total)*8*int64(time.Second)/bits))
	}
	b.clock.advance(time.Minute)
	got := b.arrived(toGuest)
	if len(got) != len(want) {
		t.Fatalf("%d arrived, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].at != want[i] {
			t.Fatalf("packet %d left the line at %v, want %v", i, got[i].at, want[i])
		}
	}
	if r := rule0(b); r.Full != 0 || r.Held != 0 {
		t.Errorf("%+v", r)
	}
}

// TestRateQueue: what would wait for longer than the queue is dropped and counted;
// each direction is a line of its own.
func TestRateQueue(t *testing.T) {
	b := newBox(t, Config{}, "rate 1mbit queue 50ms") // a packet of 1250 bytes takes 10 ms
	for i := range 20 {
		b.send(toGuest, datagram(toGuest, i, 1222))
	}
	b.send(toStack, datagram(toStack, 0, 1222))
	b.advance(time.Second, 10*time.Millisecond)
	got := b.arrived(toGuest)
	// One is on the line, five wait up to 50 ms.
	if want := []int{0, 1, 2, 3, 4, 5}; !slices.Equal(numbers(t, got), want) {
		t.Errorf("%v arrived, want %v", numbers(t, got), want)
	}
	if last := got[len(got)-1].at; last != 60*time.Millisecond {
		t.Errorf("the last arrived at %v, want 60ms", last)
	}
	if r := rule0(b); r.Full != 14 {
		t.Errorf("%+v, want 14 that found it full", r)
	}
	if up := b.arrived(toStack); len(up) != 1 || up[0].at != 10*time.Millisecond {
		t.Errorf("the other direction: %v", up)
	}
}

// TestReorder: the chosen packets arrive behind as many as asked, the others in
// their order, and one that nothing follows arrives in the end.
func TestReorder(t *testing.T) {
	b := newBox(t, Config{}, "reorder every 5 by 2")
	for i := range 11 {
		b.send(toGuest, datagram(toGuest, i, 10))
	}
	want := []int{0, 1, 2, 3, 5, 6, 4, 7, 8, 10}
	if got := numbers(t, b.arrived(toGuest)); !slices.Equal(got, want) {
		t.Errorf("%v arrived, want %v", got, want)
	}
	b.clock.advance(overtakeWithin)
	if got := numbers(t, b.arrived(toGuest)); !slices.Equal(got, append(want, 9)) {
		t.Errorf("%v arrived, want %v", got, append(want, 9))
	}

	chance := newBox(t, Config{Seed: 5}, "reorder 5%")
	const packets = 10000
	for i := range packets {
		chance.send(toGuest, datagram(toGuest, i, 10))
	}
	chance.clock.advance(time.Second)
	got := numbers(t, chance.arrived(toGuest))
	late, top := 0.0, -1
	for _, n := range got {
		if n < top {
			late++
		}
		top = max(top, n)
	}
	// Two in a row that are chosen keep their order.
	expect := packets * 0.05
	if chi := (late - expect) * (late - expect) / expect; len(got) != packets || chi > 10.83 {
		t.Errorf("%d arrived, %v late, want %v (chi-square %.1f)", len(got), late, expect, chi)
	}
}

func TestDup(t *testing.T) {
	b := newBox(t, Config{}, "dup nth 2", "dup 5ms nth 4")
	for i := range 3 {
		b.send(toGuest, datagram(toGuest, i, 10))
	}
	b.clock.advance(time.Second)
	// Of the second rule's view, the copy is a packet too: its fourth is 2.
	if got, want := numbers(t, b.arrived(toGuest)), []int{0, 1, 1, 2, 2}; !slices.Equal(got, want) {
		t.Errorf("%v arrived, want %v", got, want)
	}
	if all := b.arrived(toGuest); all[4].at != 5*time.Millisecond {
		t.Errorf("the copy came at %v", all[4].at)
	}
}

// TestCorrupt: one bit differs, behind the IP header, and the checksum tells.
func TestCorrupt(t *testing.T) {
	b := newBox(t, Config{}, "corrupt every 2")
	for i := range 100 {
		want := datagram(toGuest, i, 100)
		b.send(toGuest, want)
		all := b.arrived(toGuest)
		got := all[len(all)-1]
		bits := 0
		for j := range want {
			for x := want[j] ^ got.data[j]; x != 0; x &= x - 1 {
				bits++
				if j < 20 {
					t.Fatal("the IP header is damaged")
				}
			}
		}
		if wantBits := i % 2; bits != wantBits {
			t.Fatalf("packet %d: %d bits differ, want %d", i, bits, wantBits)
		}
	}
}

func TestMTU(t *testing.T) {
	b := newBox(t, Config{}, "mtu 100")
	for _, size := range []int{99, 100, 101, 1000} {
		b.send(toGuest, datagram(toGuest, size, size-28))
	}
	if got := numbers(t, b.arrived(toGuest)); len(got) != 2 {
		t.Errorf("%d arrived, want 2", len(got))
	}
	if r := rule0(b); r.Matched != 2 || r.Acted != 2 {
		t.Errorf("%+v", r)
	}
}

// TestQueueIsBounded: what finds no room is dropped and counted, by packets and by
// bytes.
func TestQueueIsBounded(t *testing.T) {
	for _, cfg := range []Config{{MaxPackets: 10}, {MaxBytes: 10 * 128}} {
		b := newBox(t, cfg, "hold 1s")
		for i := range 25 {
			b.send(toGuest, datagram(toGuest, i, 100))
		}
		if r := rule0(b); r.Held != 10 || r.Full != 15 || b.Counts().Waiting[toGuest] != 10 {
			t.Errorf("%+v: %+v", cfg, r)
		}
		b.clock.advance(time.Second)
		if got := len(b.arrived(toGuest)); got != 10 {
			t.Errorf("%d arrived, want 10", got)
		}
	}
}

// TestRemoveFlushes: what a rule keeps back arrives at once when it goes, in the
// order in which it was sent; what another rule keeps stays.
func TestRemoveFlushes(t *testing.T) {
	for _, dir := range []int{toGuest, toStack} {
		b := newBox(t, Config{Seed: 1}, "delay 1s ±1s", "hold 10s nth 3")
		for i := range 20 {
			b.send(dir, datagram(dir, i, 10))
		}
		if got := b.arrived(dir); len(got) != 0 {
			t.Fatalf("%d arrived", len(got))
		}
		all := b.Rules()
		if err := b.Remove(all[1].ID); err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, b.arrived(dir)); !slices.Equal(got, []int{2}) {
			t.Errorf("%v arrived, want the one that was held", got)
		}
		if err := b.Remove(all[0].ID); err != nil {
			t.Fatal(err)
		}
		b.send(dir, datagram(dir, 20, 10))
		want := []int{2, 0, 1}
		for i := 3; i <= 20; i++ {
			want = append(want, i)
		}
		waitFor(t, func() bool { return len(b.arrived(dir)) == len(want) })
		if got := numbers(t, b.arrived(dir)); !slices.Equal(got, want) {
			t.Errorf("%v arrived, want %v", got, want)
		}
		if err := b.Remove(all[0].ID); err != ErrNoRule {
			t.Errorf("removed twice: %v", err)
		}
		if n := b.Counts().Waiting; n != [2]int{} {
			t.Errorf("%v wait", n)
		}
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// TestAddedLater: rules come and go while the device is read, and without any the
// reader reads the inner device itself.
func TestAddedLater(t *testing.T) {
	b := newBox(t, Config{})
	count := 0
	for range 20 {
		b.sendPlain(count)
		count++
		id, err := b.Add(policy.Fault{Do: policy.FaultHold, Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return b.pumped.Load() })
		for range 3 {
			b.send(toStack, datagram(toStack, count, 10))
			count++
		}
		if n := b.Rules()[0].Held; n != 3 {
			t.Fatalf("%d are held, want 3", n)
		}
		if err := b.Remove(id); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return !b.pumped.Load() })
	}
	got := numbers(t, b.arrived(toStack))
	if len(got) != count || !slices.IsSorted(got) {
		t.Errorf("%v arrived, want %d in order", got, count)
	}
}

// sendPlain is send while there are no rules.
func (b *box) sendPlain(n int) {
	before := len(b.arrived(toStack))
	b.wire.from <- arrival{data: datagram(toStack, n, 10)}
	waitFor(b.t, func() bool { return len(b.arrived(toStack)) > before })
}

func TestTooManyRules(t *testing.T) {
	b := newBox(t, Config{})
	for range MaxRules {
		if _, err := b.Add(policy.Fault{Do: policy.FaultDrop}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Add(policy.Fault{Do: policy.FaultDrop}); err != ErrTooMany {
		t.Errorf("one more: %v", err)
	}
	if err := b.Remove(5); err != nil {
		t.Fatal(err)
	}
	if id, err := b.Add(policy.Fault{Do: policy.FaultDrop}); err != nil || id != MaxRules+1 {
		t.Errorf("after one is gone: %d, %v", id, err)
	}
}
