package legs

import (
	"slices"
	"strings"
	"time"

	"tcpbox/stack/tcpstate"
)

// Part is where two runs part: a step that one leg of a connection made in one
// run and not in the other, or much later in one.
type Part struct {
	// A and B are the connection in either run; nil if it has none such.
	A, B *Life

	// Leg, InA and InB say which step it is: A and B have the same ones before it.
	// Leg is zero where A or B is nil.
	Leg      tcpstate.Leg
	InA, InB int

	// Late says that both made the step, by a timer, after different times.
	Late bool
}

// StepA returns the step of A at which the runs part; nil if A does not have it.
func (p *Part) StepA() *Step { return p.step(p.A, p.InA) }

// StepB is StepA of B.
func (p *Part) StepB() *Step { return p.step(p.B, p.InB) }

func (p *Part) step(of *Life, index int) *Step {
	if of == nil {
		return nil
	}
	steps := of.Course(p.Leg).Steps
	if p.Leg == 0 {
		for _, leg := range tcpstate.Legs() {
			for i := range of.Course(leg).Steps {
				if s := &of.Course(leg).Steps[i]; s.Time.Equal(of.began) {
					return s
				}
			}
		}
	}
	if index >= len(steps) {
		return nil
	}
	return &steps[index]
}

// Slack is what a time may differ by without meaning anything: a busy machine is
// no setting.
const Slack = 500 * time.Millisecond

// Compare returns where two runs part, the earliest first; nothing if they do not.
//
// Connections are matched by where they lead, and of those by what they went
// through, then by their order. The legs of a connection are compared each for
// itself, by states and causes: neither ports nor times matter, nor which leg was
// first. Two times do: after how long a timer ran out, and where one run ended
// before a leg could make its next step. That it did not make it means something
// only if it had been given the time to.
func Compare(a, b *Run) []Part {
	var parts []Part
	for _, pair := range match(a, b) {
		if pair.a == nil || pair.b == nil {
			parts = append(parts, Part{A: pair.a, B: pair.b})
			continue
		}
		parts = append(parts, partsOf(pair.a, pair.b)...)
	}
	slices.SortStableFunc(parts, func(p, q Part) int { return int(p.at(a, b) - q.at(a, b)) })
	return parts
}

// at is when the runs part, since their begin.
func (p *Part) at(a, b *Run) time.Duration {
	first := time.Duration(1<<63 - 1)
	if s := p.StepA(); s != nil {
		first = min(first, s.Time.Sub(a.Began))
	}
	if s := p.StepB(); s != nil {
		first = min(first, s.Time.Sub(b.Began))
	}
	return first
}

type pair struct{ a, b *Life }

// match pairs the connections of two runs.
func match(a, b *Run) []pair {
	var pairs []pair
	left := make(map[string][2][]*Life)
	var order []string
	for side, run := range []*Run{a, b} {
		for i := range run.Lives {
			l := &run.Lives[i]
			both, known := left[l.To]
			if !known {
				order = append(order, l.To)
			}
			both[side] = append(both[side], l)
			left[l.To] = both
		}
	}
	for _, to := range order {
		as, bs := matchEqual(left[to][0], left[to][1], &pairs)
		for i := range max(len(as), len(bs)) {
			var p pair
			if i < len(as) {
				p.a = as[i]
			}
			if i < len(bs) {
				p.b = bs[i]
			}
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// maxTried is how many connections are compared with how many in search of one
// that went the same way.
const maxTried = 512

// matchEqual pairs those that went the same way, and returns the others in their
// order.
func matchEqual(as, bs []*Life, pairs *[]pair) (restA, restB []*Life) {
	alike := make(map[string][]*Life)
	for _, b := range bs {
		w := b.way()
		alike[w] = append(alike[w], b)
	}
	taken := make(map[*Life]bool)
	for _, a := range as {
		if same := alike[a.way()]; len(same) > 0 {
			alike[a.way()] = same[1:]
			taken[same[0]] = true
			*pairs = append(*pairs, pair{a, same[0]})
			continue
		}
		restA = append(restA, a)
	}
	for _, b := range bs {
		if !taken[b] {
			restB = append(restB, b)
		}
	}
	if len(restA) > maxTried || len(restB) > maxTried {
		return restA, restB
	}
	kept := restA[:0]
	for _, a := range restA {
		i := slices.IndexFunc(restB, func(b *Life) bool { return len(partsOf(a, b)) == 0 })
		if i < 0 {
			kept = append(kept, a)
			continue
		}
		*pairs = append(*pairs, pair{a, restB[i]})
		restB = slices.Delete(restB, i, i+1)
	}
	return kept, restB
}

// way is the states and causes of a life that ended of itself, in one word.
// Where time matters it is no two lives' the same.
func (l *Life) way() string {
	var b strings.Builder
	for _, leg := range tcpstate.Legs() {
		c := l.Course(leg)
		for _, s := range c.Steps {
			b.WriteString(s.To.String() + " " + s.Cause.String() + ",")
			if s.Cause.Kind == tcpstate.ByTimer {
				b.WriteString(s.Time.String())
			}
		}
		b.WriteByte('|')
	}
	return b.String()
}

// partsOf returns where the legs of a connection part, each at most once.
func partsOf(a, b *Life) (parts []Part) {
	for _, leg := range tcpstate.Legs() {
		p := Part{A: a, B: b, Leg: leg}
		if p.find() {
			parts = append(parts, p)
		}
	}
	return parts
}

// find walks along both courses of a leg to where they part, and reports whether
// they do.
func (p *Part) find() bool {
	ca, cb := p.A.Course(p.Leg), p.B.Course(p.Leg)
	for p.InA < len(ca.Steps) || p.InB < len(cb.Steps) {
		sa, sb := p.StepA(), p.StepB()
		switch {
		case sa == nil:
			return hadTime(p.A, ca, p.B, sb)
		case sb == nil:
			return hadTime(p.B, cb, p.A, sa)
		case sameStep(sa, sb):
			if otherTime(sa, sb) {
				p.Late = true
				return true
			}
		case inTwo(cb, p.InB, sa):
			p.InB++
		case inTwo(ca, p.InA, sb):
			p.InA++
		default:
			return true
		}
		p.InA++
		p.InB++
	}
	return false
}

// merged are states that a leg may pass through without being seen there: an ACK
// may wait for a moment and go with the FIN that follows (RFC 9293, section
// 3.8.6.3), and then whoever sees the segment, or gets it, knows no more. Which of
// both happens is chance.
var merged = []struct{ from, by, to tcpstate.State }{
	{tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.TimeWait},
	{tcpstate.Established, tcpstate.CloseWait, tcpstate.LastAck},
}

// inTwo reports whether the course makes in two steps, one a moment after the
// other, what one is: or would have, had the run not ended meanwhile.
func inTwo(c *Course, i int, one *Step) bool {
	for _, m := range merged {
		if one.From != m.from || one.To != m.to || c.Steps[i].From != m.from || c.Steps[i].To != m.by {
			continue
		}
		if i+1 == len(c.Steps) {
			return c.Still <= Slack
		}
		return c.Steps[i+1].To == m.to && c.Steps[i+1].Age <= Slack
	}
	return false
}

// sameStep reports whether two steps are the same. A cause that is not known in
// whole may be any.
func sameStep(a, b *Step) bool {
	if a.From != b.From || a.To != b.To {
		return false
	}
	if a.Cause.Kind == 0 || b.Cause.Kind == 0 {
		return true
	}
	return a.Cause.Kind == b.Cause.Kind && (a.Cause.Which == b.Cause.Which || a.Cause.Which == "" || b.Cause.Which == "")
}

// otherTime reports whether the same timer ran out after times that differ by more
// than Slack and by more than a quarter.
func otherTime(a, b *Step) bool {
	if a.Cause.Kind != tcpstate.ByTimer || b.Cause.Kind != tcpstate.ByTimer {
		return false
	}
	short, long := min(a.Age, b.Age), max(a.Age, b.Age)
	return long-short > Slack && long > short+short/4
}

// hadTime reports whether a leg that did not make the step, which is the next one
// of the other's, would have had the time to.
func hadTime(l *Life, c *Course, other *Life, step *Step) bool {
	if c.ended() {
		return true
	}
	still, needed := c.Still, step.Age
	if len(c.Steps) == 0 {
		still, needed = l.whole, step.Time.Sub(other.began)
	}
	return still > needed+Slack
}
