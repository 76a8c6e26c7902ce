package view

import (
	"fmt"
	"slices"
	"strings"

	"tcpbox/stack/tcpstate"
)

// Edge is an arrow of the state diagram.
type Edge struct{ From, To tcpstate.State }

// StateCounts is how often each end went each way through the states.
type StateCounts map[tcpstate.Leg]map[Edge]int

// Add counts a transition. That of a connection that begins with a SYN of the
// other end begins at LISTEN, where RFC 9293 has it, though its record begins at
// CLOSED: the listener goes on listening.
func (c StateCounts) Add(leg tcpstate.Leg, from, to tcpstate.State) {
	if from == tcpstate.Closed && to == tcpstate.SynReceived {
		from = tcpstate.Listen
	}
	if c[leg] == nil {
		c[leg] = make(map[Edge]int)
	}
	c[leg][Edge{from, to}]++
}

// Entered is how often an end came to a state.
func (c StateCounts) Entered(leg tcpstate.Leg, s tcpstate.State) (n int) {
	for e, times := range c[leg] {
		if e.To == s {
			n += times
		}
	}
	return n
}

// stateBox is a state in the diagram, by the middle of its box.
type stateBox struct {
	state tcpstate.State
	x, y  float64
}

const (
	boxWidth, boxHeight           = 136, 44
	diagramWidth, diagramHeight   = 880, 850
	leftColumn, midColumn, rights = 130, 430, 730
)

// stateBoxes are where the states stand. CLOSED is there twice, as in RFC 9293.
var stateBoxes = []stateBox{
	{tcpstate.Closed, midColumn, 90},
	{tcpstate.Listen, midColumn, 190},
	{tcpstate.SynReceived, leftColumn, 310},
	{tcpstate.SynSent, rights, 310},
	{tcpstate.Established, midColumn, 420},
	{tcpstate.FinWait1, leftColumn, 540},
	{tcpstate.CloseWait, rights, 540},
	{tcpstate.FinWait2, leftColumn, 680},
	{tcpstate.Closing, midColumn, 680},
	{tcpstate.LastAck, rights, 680},
	{tcpstate.TimeWait, midColumn, 820},
	{tcpstate.Closed, rights, 820},
}

// stateArrow is an arrow of the diagram, with what makes an end go that way and
// what it sends then, and where that stands. The counts stand below it, unless
// they have a place of their own.
type stateArrow struct {
	Edge
	x1, y1, x2, y2 float64
	label          string
	x, y           float64
	dx, dy         float64 // of the counts; zero: one line below
}

// stateArrows are those of RFC 9293, section 3.3.2, but for the one from LISTEN to
// SYN-SENT, for which sockets have no call, and the one from SYN-RECEIVED back to
// LISTEN: there an end that is refused ends by itself.
var stateArrows = []stateArrow{
	{Edge{tcpstate.Closed, tcpstate.Listen}, 410, 112, 410, 168, "listen", 334, 136, 0, 0},
	{Edge{tcpstate.Listen, tcpstate.Closed}, 450, 168, 450, 112, "close", 460, 136, 0, 0},
	{Edge{tcpstate.Closed, tcpstate.SynSent}, 498, 98, 712, 288, "connect / SYN", 503, 204, 0, 0},
	{Edge{tcpstate.SynSent, tcpstate.Closed}, 752, 288, 498, 80, "close, RST, timer", 684, 204, 0, 0},
	{Edge{tcpstate.Listen, tcpstate.SynReceived}, 362, 200, 150, 288, "SYN / SYN+ACK", 128, 228, 0, 0},
	{Edge{tcpstate.SynSent, tcpstate.SynReceived}, 662, 310, 198, 310, "SYN / SYN+ACK", 380, 300, 0, 28},
	{Edge{tcpstate.SynReceived, tcpstate.Established}, 170, 332, 380, 398, "ACK", 280, 352, 35, 0},
	{Edge{tcpstate.SynSent, tcpstate.Established}, 690, 332, 480, 398, "SYN+ACK / ACK", 600, 384, 0, 0},
	{Edge{tcpstate.SynReceived, tcpstate.FinWait1}, 110, 332, 110, 518, "close / FIN", 120, 420, 0, 0},
	{Edge{tcpstate.Established, tcpstate.FinWait1}, 362, 430, 160, 518, "close / FIN", 275, 496, 0, 0},
	{Edge{tcpstate.Established, tcpstate.CloseWait}, 498, 430, 700, 518, "FIN / ACK", 612, 448, 0, 0},
	{Edge{tcpstate.FinWait1, tcpstate.FinWait2}, 110, 562, 110, 658, "ACK", 120, 605, 0, 0},
	{Edge{tcpstate.FinWait1, tcpstate.Closing}, 198, 552, 390, 658, "FIN / ACK", 325, 590, 0, 0},
	{Edge{tcpstate.FinWait1, tcpstate.TimeWait}, 160, 562, 380, 798, "FIN+ACK / ACK", 338, 722, 0, 0},
	{Edge{tcpstate.FinWait2, tcpstate.TimeWait}, 160, 702, 362, 815, "FIN / ACK", 180, 780, 0, 0},
	{Edge{tcpstate.Closing, tcpstate.TimeWait}, 470, 702, 470, 798, "ACK", 480, 745, 0, 0},
	{Edge{tcpstate.CloseWait, tcpstate.LastAck}, 730, 562, 730, 658, "close / FIN", 740, 605, 0, 0},
	{Edge{tcpstate.LastAck, tcpstate.Closed}, 730, 702, 730, 798, "ACK", 740, 745, 0, 0},
	{Edge{tcpstate.TimeWait, tcpstate.Closed}, 498, 820, 662, 820, "2 MSL", 555, 810, 0, 28},
}

const statesTitle = "the states of TCP, as RFC 9293 draws them"

// StateDiagram appends the diagram as a picture of its own, for light and dark
// grounds: at each state and at each arrow how often the guest's end (g) and the
// stack's (s) came that way.
func StateDiagram(b []byte, c StateCounts) []byte {
	return c.draw().svg(b, statesTitle, "<style>\n"+strings.ReplaceAll(svgRules, "§", "")+"</style>\n")
}

// StateFigure appends it as a picture that stands in an HTML page, whose style is
// StyleWithin.
func StateFigure(b []byte, c StateCounts) []byte { return c.draw().svg(b, statesTitle, "") }

// times writes the counts of both ends.
func times(guest, stack int) string { return fmt.Sprintf("g %d  s %d", guest, stack) }

func (c StateCounts) along(e Edge) (guest, stack int) {
	return c[tcpstate.Guest][e], c[tcpstate.Stack][e]
}

// draw lays the diagram out.
func (c StateCounts) draw() *picture {
	p := &picture{width: diagramWidth, height: diagramHeight + margin}
	text := func(x, y float64, text, class string) { p.texts = append(p.texts, svgText{x, y, text, class}) }
	text(margin, 28, statesTitle, "title")
	text(margin, 28+lineHeight, "what comes / what is sent; how often on the guest's end (g) and on the stack's (s)", "note")
	for _, box := range stateBoxes {
		left, top, right, bottom := box.x-boxWidth/2, box.y-boxHeight/2, box.x+boxWidth/2, box.y+boxHeight/2
		for _, l := range [][4]float64{{left, top, right, top}, {right, top, right, bottom}, {right, bottom, left, bottom}, {left, bottom, left, top}} {
			p.lines = append(p.lines, svgLine{l[0], l[1], l[2], l[3], "rail", ""})
		}
		name := svgText{text: box.state.String(), class: "name " + phase(box.state)}
		name.x, name.y = box.x-name.width()/2, box.y-3
		n := svgText{text: times(c.Entered(tcpstate.Guest, box.state), c.Entered(tcpstate.Stack, box.state))}
		n.x, n.y = box.x-n.width()/2, box.y+lineHeight-3
		p.texts = append(p.texts, name, n)
	}
	for _, a := range stateArrows {
		guest, stack := c.along(a.Edge)
		line, class := "arrow", ""
		if guest+stack == 0 {
			line, class = "rail", "note"
		}
		p.lines = append(p.lines, svgLine{a.x1, a.y1, a.x2, a.y2, line, "head"})
		text(a.x, a.y, a.label, class)
		if a.dx == 0 && a.dy == 0 {
			a.dy = lineHeight
		}
		text(a.x+a.dx, a.y+a.dy, times(guest, stack), class)
	}
	if others := c.others(); len(others) > 0 {
		p.height += lineHeight
		text(margin, p.height-margin, "and, by an RST, a timer or a call, what no arrow stands for:", "note")
		for _, e := range others {
			p.height += lineHeight
			text(2*margin, p.height-margin, fmt.Sprintf("%-12v → %-12v %s", e.From, e.To, times(c.along(e))), "")
		}
		p.height += margin / 2
	}
	return p
}

// others are the ways that were gone and that are no arrow, in the order of their
// states.
func (c StateCounts) others() (all []Edge) {
	for _, counts := range c {
		for e := range counts {
			drawn := func(a stateArrow) bool { return a.Edge == e }
			if !slices.ContainsFunc(stateArrows, drawn) && !slices.Contains(all, e) {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b Edge) int {
		if a.From != b.From {
			return int(a.From) - int(b.From)
		}
		return int(a.To) - int(b.To)
	})
	return all
}

// StateText appends the diagram as lines of text: each state, how often each end
// came to it, and where it went from there.
func StateText(b []byte, c StateCounts) []byte {
	b = fmt.Appendf(b, "%-12s  %5s %5s   %s\n", "STATE", "GUEST", "STACK", "AND FROM THERE, GUEST/STACK")
	for _, s := range tcpstate.All() {
		var next []string
		for _, a := range stateArrows {
			if guest, stack := c.along(a.Edge); a.From == s && guest+stack > 0 {
				next = append(next, fmt.Sprintf("%v %d/%d", a.To, guest, stack))
			}
		}
		for _, e := range c.others() {
			if guest, stack := c.along(e); e.From == s {
				next = append(next, fmt.Sprintf("%v %d/%d", e.To, guest, stack))
			}
		}
		line := fmt.Sprintf("%-12v  %5d %5d   %s", s, c.Entered(tcpstate.Guest, s), c.Entered(tcpstate.Stack, s), strings.Join(next, ", "))
		b = append(b, strings.TrimRight(line, " ")...)
		b = append(b, '\n')
	}
	return b
}
