package view

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// The picture's measures, in pixels. Texts are told how long they are, so that
// they are so in whichever font.
const (
	fontSize   = 13
	charWidth  = 7.8
	lineHeight = 17
	slope      = 16 // of an arrow, from tail to head
	margin     = 16

	timeChars   = 10
	statesWidth = stateWidth * charWidth
	gap         = 10 // beside a rail

	narrowArrow  = 20 // characters
	narrowMargin = 3
)

// svgText is a text of the picture, and where it is: at its left end, on its
// baseline.
type svgText struct {
	x, y  float64
	text  string
	class string
}

func (t svgText) width() float64 { return float64(utf8.RuneCountInString(t.text)) * charWidth }

// box is the room that the text takes.
func (t svgText) box() (left, top, right, bottom float64) {
	return t.x, t.y - fontSize + 2, t.x + t.width(), t.y + 4
}

// svgLine is a line, with a head or a cross at its end.
type svgLine struct {
	x1, y1, x2, y2 float64
	class, end     string
}

// picture is lines and texts: a ladder, or the diagram of the states.
type picture struct {
	width, height float64
	texts         []svgText
	lines         []svgLine

	left, right float64 // of the rails
	margin      float64

	ids string // behind the names of what the picture refers to, which a page has but once
}

// draw lays the ladder out.
func (l Ladder) draw(lad *legs.Ladder) *picture {
	chars := leastArrow
	if l.Teach {
		chars = teachArrow
	}
	for i := range lad.Rungs {
		if r := &lad.Rungs[i]; r.Segment != nil {
			chars = max(chars, utf8.RuneCountInString(l.label(lad, r))+arrowSlack)
		}
	}
	p := &picture{margin: margin}
	p.left = margin + timeChars*charWidth + gap + statesWidth + gap
	if l.Narrow {
		p.margin, p.ids, chars = narrowMargin, "-narrow", narrowArrow
		p.left = narrowMargin + statesWidth + gap
	}
	p.right = p.left + float64(chars)*charWidth
	p.width = p.right + gap + statesWidth + p.margin
	y := p.margin + fontSize
	heading := append(wrap(Ladder{}.title(lad), p.chars()), wrap(summary(lad), p.chars())...)
	if l.Teach {
		for _, s := range teachLegend(lad) {
			heading = append(heading, wrap(s, p.chars())...)
		}
	}
	for i, s := range heading {
		class := "note"
		if i == 0 {
			class = "title"
		}
		p.text(p.margin, y, class, s)
		y += lineHeight
	}
	y += lineHeight
	top := y + 6
	p.state(tcpstate.Guest, y, "name", "GUEST")
	p.state(tcpstate.Stack, y, "name", "STACK")
	y += lineHeight + 4
	p.state(tcpstate.Guest, y, "closed", l.began(lad, tcpstate.Guest))
	p.state(tcpstate.Stack, y, "closed", l.began(lad, tcpstate.Stack))
	y += lineHeight
	for i := range lad.Rungs {
		y = l.drawRung(p, lad, &lad.Rungs[i], y)
	}
	p.lines = append(p.lines, svgLine{p.left, top, p.left, y, "rail", ""}, svgLine{p.right, top, p.right, y, "rail", ""})
	p.height = y + p.margin
	return p
}

// chars is how many fit on a line of the whole picture.
func (p *picture) chars() int { return int((p.width - 2*p.margin) / charWidth) }

func (p *picture) text(x, y float64, class, s string) {
	p.texts = append(p.texts, svgText{x, y, s, class})
}

// center puts a text between the rails.
func (p *picture) center(y float64, class, s string) {
	t := svgText{0, y, s, class}
	t.x = (p.left + p.right - t.width()) / 2
	p.texts = append(p.texts, t)
}

// state puts the name of a state beside a rail.
func (p *picture) state(leg tcpstate.Leg, y float64, class, s string) {
	t := svgText{p.right + gap, y, s, class}
	if leg == tcpstate.Guest {
		t.x = p.left - gap - t.width()
	}
	p.texts = append(p.texts, t)
}

// drawRung lays out a rung whose first line of text is at y, and returns where the next
// one is.
func (l Ladder) drawRung(p *picture, lad *legs.Ladder, r *legs.Rung, y float64) float64 {
	when := at(lad, r)
	var lines []string
	if l.Narrow {
		lines = append(lines, when+" s")
	} else {
		p.text(margin+charWidth*float64(max(0, timeChars-len(when))), y+lineHeight, "time", when)
	}
	for _, n := range l.notes(lad, r) {
		lines = append(lines, wrap(n, int((p.right-p.left)/charWidth)-2)...)
	}
	below := y + lineHeight
	tail, head := y+lineHeight, y+lineHeight
	if r.Segment != nil {
		if s := skippedBefore(r); s != "" {
			p.center(y, "note", s)
			y += lineHeight
		}
		labels := []string{l.label(lad, r)}
		if l.Narrow {
			labels = wrap(labels[0], narrowArrow-1)
		}
		for i, s := range labels {
			if i > 0 {
				y += lineHeight
			}
			p.center(y, "label", s)
		}
		tail, head = y+7, y+7+slope
		p.arrow(r, tail, head)
		below = head + lineHeight
		tail, head = tail+4, head+4
	}
	for _, s := range lines {
		p.center(below, "note", s)
		below += lineHeight
	}
	bottom := below
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		at := head
		if r.Segment != nil && r.Sender() == leg {
			at = tail
		}
		for _, s := range r.Steps {
			if s.Leg == leg {
				p.state(leg, at, phase(s.To), l.state(s.To))
				at += lineHeight
			}
		}
		bottom = max(bottom, at)
	}
	return bottom + 6
}

// arrow lays out the line of a segment.
func (p *picture) arrow(r *legs.Rung, tail, head float64) {
	from, to := p.left, p.right
	if r.Sender() == tcpstate.Stack {
		from, to = to, from
	}
	line := svgLine{from, tail, to, head, "arrow", "head"}
	if r.Has(legs.Lost) {
		const way = 0.75
		line.x2, line.y2 = from+(to-from)*way, tail+(head-tail)*way
		line.class, line.end = "arrow lost", "cross"
	}
	p.lines = append(p.lines, line)
}

// phase is the class of a state: of each phase of a connection one.
func phase(s tcpstate.State) string {
	switch s {
	case tcpstate.SynSent, tcpstate.SynReceived:
		return "opening"
	case tcpstate.Established:
		return "open"
	case tcpstate.FinWait1, tcpstate.FinWait2, tcpstate.CloseWait, tcpstate.Closing, tcpstate.LastAck:
		return "closing"
	case tcpstate.TimeWait:
		return "waiting"
	}
	return "closed"
}

// svgRules are the colours, on light and on dark ground. § is where the selector of
// what they are for stands, and "svg" where there is none.
const svgRules = `  §svg { --ground: #ffffff; --ink: #1f2328; --faint: #6a7079; --opening: #8a5a00; --open: #1a7f37; --closing: #8250df; --waiting: #0b7285; --alarm: #c62828; }
  @media (prefers-color-scheme: dark) {
    §svg { --ground: #0d1117; --ink: #e6edf3; --faint: #8d96a0; --opening: #d9a01f; --open: #4cc76a; --closing: #bf9bff; --waiting: #45c4d6; --alarm: #ff7b72; }
  }
  §.ground { fill: var(--ground); }
  §text { font: 13px ui-monospace, "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace; fill: var(--ink); white-space: pre; }
  §.title, §.name { font-weight: bold; }
  §.note, §.time, §.closed { fill: var(--faint); }
  §.opening { fill: var(--opening); } §.open { fill: var(--open); } §.closing { fill: var(--closing); } §.waiting { fill: var(--waiting); }
  §.rail { stroke: var(--faint); stroke-width: 1.5; }
  §.arrow { stroke: var(--ink); stroke-width: 1.3; }
  §.lost { stroke: var(--alarm); stroke-dasharray: 5 4; }
  §.headshape { fill: var(--ink); } §.crossshape { stroke: var(--alarm); stroke-width: 1.6; fill: none; }
`

const svgMarkers = `<defs>
  <marker id="head§" viewBox="0 0 10 10" refX="9.5" refY="5" markerWidth="9" markerHeight="9" orient="auto"><path class="headshape" d="M0 1 L10 5 L0 9 z"/></marker>
  <marker id="cross§" viewBox="0 0 10 10" refX="5" refY="5" markerWidth="10" markerHeight="10"><path class="crossshape" d="M1 1 L9 9 M9 1 L1 9"/></marker>
</defs>
`

// StyleWithin returns the rules of pictures that stand in an HTML page, within an
// element that the selector chooses; see Ladder.Figure.
func StyleWithin(selector string) string { return strings.ReplaceAll(svgRules, "§", selector+" ") }

// SVG appends the ladder as a picture of its own, for light and dark grounds.
func (l Ladder) SVG(b []byte, lad *legs.Ladder) []byte {
	return l.svg(b, lad, "<style>\n"+strings.ReplaceAll(svgRules, "§", "")+"</style>\n")
}

// Figure appends the ladder as a picture that stands in an HTML page, whose style is
// StyleWithin.
func (l Ladder) Figure(b []byte, lad *legs.Ladder) []byte { return l.svg(b, lad, "") }

func (l Ladder) svg(b []byte, lad *legs.Ladder, style string) []byte {
	return l.draw(lad).svg(b, Ladder{}.title(lad), style)
}

// svg appends the picture, whose title is read to those who cannot see it.
func (p *picture) svg(b []byte, title, style string) []byte {
	b = fmt.Appendf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">\n",
		p.width, p.height, p.width, p.height, xmlText(title))
	b = append(append(b, style...), strings.ReplaceAll(svgMarkers, "§", p.ids)...)
	b = append(b, "<rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n"...)
	for _, line := range p.lines {
		end := ""
		if line.end != "" {
			end = fmt.Sprintf(" marker-end=\"url(#%s%s)\"", line.end, p.ids)
		}
		b = fmt.Appendf(b, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"%s/>\n", line.class, line.x1, line.y1, line.x2, line.y2, end)
	}
	for _, t := range p.texts {
		if strings.TrimSpace(t.text) == "" {
			continue
		}
		b = fmt.Appendf(b, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" textLength=\"%.1f\" lengthAdjust=\"spacingAndGlyphs\">%s</text>\n", t.class, t.x, t.y, t.width(), xmlText(t.text))
	}
	return append(b, "</svg>\n"...)
}

// xmlText escapes what XML would take for its own.
func xmlText(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}
