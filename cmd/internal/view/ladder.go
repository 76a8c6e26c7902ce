package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Ladder draws the ladder of a connection: as text, SVG or Mermaid. The zero
// value draws it plainly.
type Ladder struct {
	// Color marks states by ANSI colours, in the text.
	Color bool

	// ASCII avoids other characters, in the text.
	ASCII bool

	// Width is that of the terminal, in columns, for the text: if that needs more, it
	// has no times, and lines are cut. Zero: there is no limit.
	Width int

	// Netstat spells states as netstat(8) does.
	Netstat bool

	// Teach explains each segment, and writes numbers as textbooks do: SYN=j,
	// ACK=j+1.
	Teach bool

	// Narrow draws the SVG for a phone: 360 pixels wide, the times below the
	// arrows.
	Narrow bool

	// Decode lists, in the text, every field of every header with its width.
	Decode bool
}

func (l Ladder) state(s tcpstate.State) string { return Line{Netstat: l.Netstat}.state(s) }

// flagNames are the flags in the order in which they are said.
var flagNames = []struct {
	flag packet.Flags
	name string
}{
	{packet.SYN, "SYN"},
	{packet.FIN, "FIN"},
	{packet.RST, "RST"},
	{packet.PSH, "PSH"},
	{packet.URG, "URG"},
	{packet.ACK, "ACK"},
	{packet.ECE, "ECE"},
	{packet.CWR, "CWR"},
}

func flagWords(f packet.Flags) []string {
	var words []string
	for _, n := range flagNames {
		if f.Has(n.flag) {
			words = append(words, n.name)
		}
	}
	return words
}

// label is what stands on the arrow of a segment.
func (l Ladder) label(lad *legs.Ladder, r *legs.Rung) string {
	if l.Teach {
		return teachLabel(lad, r)
	}
	words := flagWords(r.TCP.Flags)
	if len(words) == 0 {
		words = append(words, "no flags")
	}
	words = append(words, fmt.Sprintf("seq=%d", r.Seq))
	if r.TCP.Flags.Has(packet.ACK) {
		words = append(words, fmt.Sprintf("ack=%d", r.Ack))
	}
	if r.Segment.Payload > 0 {
		words = append(words, fmt.Sprintf("len=%d", r.Segment.Payload))
	}
	return strings.Join(words, " ")
}

// synOptions says what a SYN proposes.
func synOptions(r *legs.Rung) string {
	h := &r.TCP
	words := []string{fmt.Sprintf("win %d", h.Window)}
	if h.HasMSS {
		words = append(words, fmt.Sprintf("mss %d", h.MSS))
	}
	if h.SACKPermitted {
		words = append(words, "sackOK")
	}
	if h.HasWScale {
		words = append(words, fmt.Sprintf("wscale %d", h.WScale))
	}
	if h.HasTimestamps {
		words = append(words, "timestamps")
	}
	if h.BadOptions {
		words = append(words, "malformed options")
	}
	return strings.Join(words, ", ")
}

// notes are the lines below the arrow of a segment.
func (l Ladder) notes(lad *legs.Ladder, r *legs.Rung) []string {
	var lines []string
	if r.Segment == nil {
		for _, s := range r.Steps {
			lines = append(lines, aloneWords(s))
		}
		return lines
	}
	if r.TCP.Flags.Has(packet.SYN) && !l.Teach {
		lines = append(lines, synOptions(r))
	}
	for _, s := range r.Steps {
		if s.Cause.Kind == tcpstate.ByCall && s.Cause.Which != "" {
			lines = append(lines, fmt.Sprintf("the %v calls %s()", s.Leg, printable(s.Cause.Which)))
		}
		if s.Cause.Kind == tcpstate.ByPolicy {
			lines = append(lines, fmt.Sprintf("tcpbox: %s", printable(s.Cause.Which)))
		}
	}
	for _, n := range r.Notes {
		if n.Kind == legs.Skipped {
			continue // has a rung of its own
		}
		lines = append(lines, noteWords(n, r))
	}
	if l.Teach {
		lines = append(lines, teach(lad, r)...)
	}
	return lines
}

// noteWords says a note to people.
func noteWords(n legs.Note, r *legs.Rung) string {
	switch n.Kind {
	case legs.Lost:
		return "lost on the way"
	case legs.Retransmitted:
		if n.Of == 0 {
			return "retransmission"
		}
		return fmt.Sprintf("retransmission of %d", n.Of)
	case legs.NeedlessAgain:
		return "needless: it was acknowledged already"
	case legs.Gap:
		return "what lies before it was not seen"
	case legs.KeepAlive:
		return "keepalive: are you there?"
	case legs.KeepAliveAnswer:
		return "keepalive: yes"
	case legs.DuplicateACK:
		return "duplicate ACK"
	case legs.ZeroWindow:
		return "window 0: send nothing more for now"
	case legs.WindowUpdate:
		return fmt.Sprintf("window %d: go on", r.Window)
	case legs.MergedFIN:
		return "merged FIN+ACK: the FIN, and the ACK of the other's"
	case legs.FINWithData:
		return "the FIN goes with the last data"
	case legs.SuperSegment:
		return fmt.Sprintf("stands for %d segments", n.Of)
	case legs.SimultaneousSYN:
		return "simultaneous open: both ask at once"
	case legs.SimultaneousFIN:
		return "simultaneous close: the FINs cross"
	case legs.Refusal:
		return "refused"
	case legs.Skipped:
		return fmt.Sprintf("%d segments were not kept", n.Of)
	}
	return n.Kind.String()
}

// aloneWords says what happened to an end without a segment.
func aloneWords(s legs.Step) string {
	switch {
	case s.Cause.Kind == tcpstate.ByTimer && s.From == tcpstate.TimeWait:
		return "TIME-WAIT is over, after " + roughly(s.Age)
	case s.Cause.Kind == tcpstate.ByTimer && s.From == tcpstate.FinWait2:
		return "no FIN came in " + roughly(s.Age) + ": given up"
	case s.Cause.Kind == tcpstate.ByTimer:
		return fmt.Sprintf("the %v gives up: no answer", s.Leg)
	}
	return fmt.Sprintf("the %v: %s", s.Leg, cause(s.Cause))
}

// roughly is a time that was waited, of which a hundredth does not matter.
func roughly(d time.Duration) string {
	if d >= time.Second {
		d = d.Round(100 * time.Millisecond)
	} else {
		d = d.Round(10 * time.Microsecond)
	}
	if d >= time.Minute && d < 2*time.Minute { // 60s, as people call TIME-WAIT's, and not 1m0s
		return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
	}
	return d.String()
}

// skippedBefore is the note about segments that were not kept; "" if there is
// none.
func skippedBefore(r *legs.Rung) string {
	for _, n := range r.Notes {
		if n.Kind == legs.Skipped {
			return noteWords(n, r)
		}
	}
	return ""
}

// title names the connection.
func (l Ladder) title(lad *legs.Ladder) string {
	arrow := " → "
	if lad.OpenedBy == tcpstate.Stack {
		arrow = " ← "
	}
	if l.ASCII {
		arrow = map[string]string{" → ": " > ", " ← ": " < "}[arrow]
	}
	return fmt.Sprintf("connection #%d: guest %s%s%s", lad.Conn, addrPort(lad.Guest), arrow, addrPort(lad.Remote))
}

// summary says in one line how the connection began and ended.
func summary(lad *legs.Ladder) string {
	parts := []string{beginning(lad), ending(lad)}
	if holder := timeWaitOf(lad); holder != "" {
		parts = append(parts, "TIME-WAIT is the "+holder+"'s")
	}
	return strings.Join(parts, "; ")
}

func beginning(lad *legs.Ladder) string {
	var synAck, refusal, simultaneous bool
	for i := range lad.Rungs {
		r := &lad.Rungs[i]
		synAck = synAck || r.Segment != nil && r.TCP.Flags.Has(packet.SYN|packet.ACK)
		refusal = refusal || r.Has(legs.Refusal)
		simultaneous = simultaneous || r.Has(legs.SimultaneousSYN)
	}
	switch {
	case lad.OpenedBy == 0:
		return "the beginning was not seen"
	case simultaneous:
		return "opened by both at once"
	case synAck:
		return fmt.Sprintf("opened by the %v", lad.OpenedBy)
	case refusal:
		return fmt.Sprintf("asked for by the %v", lad.OpenedBy)
	}
	return fmt.Sprintf("asked for by the %v, without an answer", lad.OpenedBy)
}

func ending(lad *legs.Ladder) string {
	var first tcpstate.Leg // whose FIN was the first
	var merged, simultaneous, gaveUp bool
	for i := range lad.Rungs {
		r := &lad.Rungs[i]
		for _, s := range r.Steps {
			gaveUp = gaveUp || s.To == tcpstate.Closed && s.Cause == tcpstate.Cause{Kind: tcpstate.ByTimer, Which: "retransmission"}
		}
		switch {
		case r.Segment == nil:
		case r.Has(legs.Refusal):
			return "refused"
		case r.TCP.Flags.Has(packet.RST) && (len(r.Steps) > 0 || len(lad.FIN) < 2): // it may come too late
			return fmt.Sprintf("reset by the %v", r.Sender())
		case r.TCP.Flags.Has(packet.FIN):
			if first == 0 {
				first = r.Sender()
			}
			merged = merged || r.Has(legs.MergedFIN)
			simultaneous = simultaneous || r.Has(legs.SimultaneousFIN)
		}
	}
	switch {
	case simultaneous:
		return "closed by both at once"
	case len(lad.FIN) == 2 && merged:
		return fmt.Sprintf("closed first by the %v, with three segments: the second is FIN and ACK in one", first)
	case len(lad.FIN) == 2:
		return fmt.Sprintf("closed first by the %v, with four segments", first)
	case gaveUp:
		return "given up: no answer came"
	case first != 0:
		return fmt.Sprintf("half-closed by the %v", first)
	}
	return "still open"
}

// timeWaitOf is the end that came to TIME-WAIT; "" if neither did, or that is
// not known.
func timeWaitOf(lad *legs.Ladder) string {
	var ends []string
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		for i := range lad.Rungs {
			for _, s := range lad.Rungs[i].Steps {
				if s.Leg == leg && s.To == tcpstate.TimeWait {
					ends = append(ends, leg.String())
				}
			}
		}
	}
	return strings.Join(ends, "'s and the ")
}

// at is when a rung was, since the first.
func at(lad *legs.Ladder, r *legs.Rung) string {
	d := r.Time.Sub(lad.Rungs[0].Time)
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	return fmt.Sprintf("%s%d.%06d", sign, d/time.Second, d%time.Second/time.Microsecond)
}

// began is the state in which an end was before the first rung.
func (l Ladder) began(lad *legs.Ladder, leg tcpstate.Leg) string {
	if !lad.Seen[leg] {
		return "unknown"
	}
	for i := range lad.Rungs {
		for _, s := range lad.Rungs[i].Steps {
			if s.Leg == leg {
				return l.state(s.From)
			}
		}
	}
	return "unknown"
}
