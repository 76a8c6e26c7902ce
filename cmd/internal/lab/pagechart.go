package lab

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"tcpbox/cmd/internal/view"
	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// chart is how many endpoints of one leg were in which state, over time: areas that
// lie on each other.
type chart struct {
	Caption string
	Most    int // endpoints at once
	Height  int // of the picture's field; its width is 1000
	Ticks   []chartTick
	Areas   []area
	Flat    bool // there is never more than one
}

type area struct {
	State, Class, Peak, Path string
}

// chartHeight is that of the field, in its own units; how high it is drawn is the
// style's affair.
const chartHeight = 100

// stacked are the states in the order in which their areas lie on each other.
var stacked = []tcpstate.State{
	tcpstate.TimeWait, tcpstate.CloseWait, tcpstate.FinWait2, tcpstate.Closing, tcpstate.LastAck, tcpstate.FinWait1,
	tcpstate.Established, tcpstate.SynReceived, tcpstate.SynSent,
}

// moment is what changes at one time: by state, how many more or fewer there are.
type moment struct {
	at   time.Duration
	more map[tcpstate.State]int
}

// pictures draws the rows that tell most: the problem, and the first cure; and, of a
// row that enters every state, all of them.
func (p *page) pictures(r *Report) {
	p.Diagram = diagram(r)
	var told []*Row
	for _, g := range []Group{Problem, Cure} {
		for i := range r.Rows {
			if row := &r.Rows[i]; row.Variant.Group == g && len(row.Log.Records) > 0 {
				told = append(told, row)
				break
			}
		}
	}
	for _, row := range told {
		run := runOf(row)
		for _, leg := range tcpstate.Legs() {
			if c, ok := newChart(run, leg); ok {
				c.Caption = fmt.Sprintf("%s: the %v’s %s", row.Variant.Title, leg, map[bool]string{true: "endpoints", false: "sockets"}[leg == tcpstate.Stack])
				p.Charts = append(p.Charts, c)
			}
		}
	}
	for _, row := range told {
		if lad := telling(row); lad != nil {
			p.Ladder = template.HTML(view.Ladder{}.Figure(nil, lad))                   //nolint:gosec // it escapes what it is given
			p.NarrowLadder = template.HTML(view.Ladder{Narrow: true}.Figure(nil, lad)) //nolint:gosec // it escapes what it is given
			p.LadderOf = fmt.Sprintf("In the row “%s”: what passed between the guest and the stack in one of its connections, and what each end became by it.", row.Variant.Title)
			return
		}
	}
}

// diagram draws the states, if there is a row in which each of them is entered.
func diagram(r *Report) template.HTML {
	for i := range r.Rows {
		counts := view.StateCounts{}
		for _, rec := range r.Rows[i].Log.Records {
			if rec.IsTransition() && (rec.Leg == tcpstate.Guest || rec.Leg == tcpstate.Stack) {
				counts.Add(rec.Leg, rec.From, rec.To)
			}
		}
		if !slices.ContainsFunc(tcpstate.All(), func(s tcpstate.State) bool {
			return counts.Entered(tcpstate.Guest, s)+counts.Entered(tcpstate.Stack, s) == 0
		}) {
			return template.HTML(view.StateFigure(nil, counts)) //nolint:gosec // it is made of our words and numbers
		}
	}
	return ""
}

// runOf makes of a row's log what went on in it.
func runOf(row *Row) *legs.Run {
	var rs legs.Runs
	for i := range row.Log.Records {
		rs.Add(&row.Log.Records[i])
	}
	return rs.Run()
}

// newChart counts a leg's endpoints over a run; ok is false if there are none.
func newChart(run *legs.Run, leg tcpstate.Leg) (c chart, ok bool) {
	moments, most := countStates(run, leg)
	if len(moments) == 0 || run.Took <= 0 {
		return c, false
	}
	total := 0
	now := map[tcpstate.State]int{}
	for _, m := range moments {
		total = 0
		for s, n := range m.more {
			now[s] += n
		}
		for _, n := range now {
			total += n
		}
		c.Most = max(c.Most, total)
	}
	c.Height = chartHeight
	c.Flat = c.Most == 1
	shown := *run
	shown.Took += run.Took / 40 // so that what comes last is seen
	run = &shown
	c.Ticks = ticks(run.Took)
	below := make([]int, len(moments)) // what the areas that are drawn already take, at each moment
	for _, s := range stacked {
		if most[s] > 0 {
			c.Areas = append(c.Areas, c.area(run, moments, below, s, most[s]))
		}
	}
	return c, true
}

// countStates returns the moments at which a leg's endpoints change, in order, and
// how many there were at most in each state. Closed ones and listeners are not
// counted.
func countStates(run *legs.Run, leg tcpstate.Leg) (moments []moment, most map[tcpstate.State]int) {
	byTime := map[time.Duration]map[tcpstate.State]int{}
	change := func(at time.Duration, s tcpstate.State, n int) {
		if !slices.Contains(stacked, s) {
			return
		}
		if byTime[at] == nil {
			byTime[at] = map[tcpstate.State]int{}
		}
		byTime[at][s] += n
	}
	for i := range run.Lives {
		steps := run.Lives[i].Course(leg).Steps
		for j, s := range steps {
			at := s.Time.Sub(run.Began)
			if j > 0 {
				change(at, steps[j-1].To, -1)
			}
			change(at, s.To, 1)
		}
	}
	for at, more := range byTime {
		moments = append(moments, moment{at, more})
	}
	slices.SortFunc(moments, func(a, b moment) int { return int(a.at - b.at) })
	now := map[tcpstate.State]int{}
	most = map[tcpstate.State]int{}
	for _, m := range moments {
		for s, n := range m.more {
			now[s] += n
			most[s] = max(most[s], now[s])
		}
	}
	return moments, most
}

// area draws one state's, on those below it, which it adds itself to.
func (c *chart) area(run *legs.Run, moments []moment, below []int, s tcpstate.State, peak int) area {
	x := func(at time.Duration) float64 { return 1000 * float64(at) / float64(run.Took) }
	y := func(n int) float64 { return chartHeight - float64(n)*chartHeight/float64(c.Most) }
	var path strings.Builder
	var top, bottom []string
	end := func() { // of a time in which there were any
		if slices.Reverse(bottom); len(top) > 0 {
			path.WriteString("M" + strings.Join(top, "L") + "L" + strings.Join(bottom, "L") + "Z")
		}
		top, bottom = nil, nil
	}
	n := 0
	for i, m := range moments {
		n += m.more[s]
		if n == 0 {
			end()
			continue
		}
		from, to := x(m.at), 1000.0
		if i+1 < len(moments) {
			to = x(moments[i+1].at)
		}
		low, high := y(below[i]), y(below[i]+n)
		top = append(top, fmt.Sprintf("%.1f %.1fH%.1f", from, high, to))
		bottom = append(bottom, fmt.Sprintf("%.1f %.1fH%.1f", to, low, from))
		below[i] += n
	}
	end()
	return area{State: s.String(), Class: "state-" + strings.ToLower(s.String()), Peak: fmt.Sprintf("at most %d", peak), Path: path.String()}
}

// chartTick is a time below a chart, and where, in per cent of its width.
type chartTick struct{ At, Text string }

// ticks are a few round times from begin to end.
func ticks(took time.Duration) (all []chartTick) {
	const most = 5
	step := time.Microsecond
	for i := 0; took/step >= most; i++ {
		step = step * []time.Duration{2, 5, 2}[i%3] / []time.Duration{1, 2, 1}[i%3] // 1, 2, 5, 10
	}
	for at := time.Duration(0); at <= took-took/20; at += step {
		text := "0"
		if at > 0 {
			text = at.String()
		}
		all = append(all, chartTick{fmt.Sprintf("%.1f", 100*float64(at)/float64(took)), text})
	}
	return all
}

// maxRungs is how long a ladder may be that is shown: what is longer is no
// picture any more.
const maxRungs = 40

// telling returns the ladder of the connection of a row that has most to tell; nil
// if there is none.
func telling(row *Row) *legs.Ladder {
	var conns []tcpstate.Conn
	for i := range row.Log.Segments {
		if c := row.Log.Segments[i].Conn; !slices.Contains(conns, c) && len(conns) < 64 {
			conns = append(conns, c)
		}
	}
	var best *legs.Ladder
	most := -1
	for _, conn := range conns {
		all := legs.NewLadders(conn)
		for i := range row.Log.Segments {
			all.Segment(&row.Log.Segments[i])
		}
		for i := range row.Log.Records {
			all.Record(&row.Log.Records[i])
		}
		lad, err := all.Ladder()
		if err != nil || len(lad.Rungs) > maxRungs {
			continue
		}
		if n := tells(lad); n > most {
			best, most = lad, n
		}
	}
	return best
}

// tells counts what is out of the ordinary in a ladder, and the states that its ends
// went through.
func tells(lad *legs.Ladder) (n int) {
	for i := range lad.Rungs {
		n += len(lad.Rungs[i].Steps)
		for _, note := range lad.Rungs[i].Notes {
			if note.Kind != legs.SuperSegment {
				n += 2
			}
		}
	}
	return n
}
