package view

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
)

// Rows draws connections as a table: the states of the three legs side by side, and
// what is known of each connection. Columns that say nothing of any row are left
// out, and as many others as Width makes necessary.
//
// Age is reckoned to now.
func (l Line) Rows(b []byte, rows []legs.Row, now time.Time) []byte {
	for narrow := 0; ; narrow++ {
		t := l.table(rows, now, narrow)
		if l.Width == 0 || t.width() <= l.Width || narrow == mostNarrow {
			return t.append(b)
		}
	}
}

// Steps by which a table becomes narrower.
const (
	noRTT = iota + 1
	noRule
	shortAddresses // the port of the guest's end
	noBytes
	noName
	peerOnly
	noEnding
	noProcess

	mostNarrow = noProcess
)

// grid is a table that is being drawn.
type grid struct {
	Line
	columns []column
	rows    int
}

// column has a cell for each row.
type column struct {
	name  string
	right bool
	cells []cell
}

type cell struct{ text, color string }

func (t *grid) add(name string, right bool, of func(r int) cell) {
	c := column{name: name, right: right}
	said := false
	for i := range t.rows {
		v := of(i)
		said = said || v.text != ""
		c.cells = append(c.cells, v)
	}
	if said || t.rows == 0 {
		t.columns = append(t.columns, c)
	}
}

func (l Line) table(rows []legs.Row, now time.Time, narrow int) *grid {
	t := &grid{Line: l, rows: len(rows)}
	text := func(of func(r *legs.Row) string) func(int) cell {
		return func(i int) cell { return cell{of(&rows[i]), noColor} }
	}
	t.add("CONN", true, text(func(r *legs.Row) string { return "#" + strconv.FormatUint(uint64(r.Conn), 10) }))
	for _, leg := range tcpstate.Legs() {
		t.add(strings.ToUpper(leg.String()), false, func(i int) cell {
			s := rows[i].Leg(leg)
			if s.Since.IsZero() {
				return cell{"-", faint}
			}
			return cell{l.state(s.State), stateColor(s.State)}
		})
	}
	t.add("AGE", true, text(func(r *legs.Row) string {
		since := r.Since()
		if since.IsZero() { // only facts are known of it
			return ""
		}
		return Age(now.Sub(since), l.ASCII)
	}))
	if narrow < noEnding {
		t.add("CLOSED", false, text(func(r *legs.Row) string { return Ending(r.Closed) }))
	}
	t.add("FROZEN", false, text(func(r *legs.Row) string {
		if r.Held() {
			return "frozen"
		}
		return ""
	}))
	if narrow < noBytes {
		t.add("OUT", true, text(func(r *legs.Row) string { return bytesOf(r, true) }))
		t.add("IN", true, text(func(r *legs.Row) string { return bytesOf(r, false) }))
	}
	t.add(addressTitle(l, narrow), false, text(func(r *legs.Row) string { return l.ends(r, narrow) }))
	if narrow < noName {
		t.add("NAME", false, text(func(r *legs.Row) string { return printable(r.Name) }))
	}
	if narrow < noProcess {
		t.add("PROCESS", false, text(func(r *legs.Row) string {
			if r.Command == "" && r.PID == 0 {
				return ""
			}
			return Process(&r.Facts)
		}))
	}
	if narrow < noRule {
		t.add("RULE", false, text(func(r *legs.Row) string { return printable(r.Rule) }))
	}
	if narrow < noRTT {
		t.add("RTT", true, text(func(r *legs.Row) string {
			if r.Path == nil {
				return ""
			}
			return Age(r.Path.RTT, l.ASCII)
		}))
	}
	return t
}

func bytesOf(r *legs.Row, out bool) string {
	switch {
	case r.Bytes == nil:
		return ""
	case out:
		return Bytes(r.Bytes.Outbound)
	}
	return Bytes(r.Bytes.Inbound)
}

func addressTitle(l Line, narrow int) string {
	if narrow >= peerOnly {
		return "PEER"
	}
	return "GUEST" + l.arrowText() + "PEER"
}

// ends are the addresses of a row: the guest's end left, and an arrow that says who
// opened it.
func (l Line) ends(r *legs.Row, narrow int) string {
	switch {
	case !r.Peer.IsValid():
		return addrPort(r.Guest)
	case !r.Guest.IsValid() || narrow >= peerOnly:
		return addrPort(r.Peer)
	}
	arrow := l.arrowText()
	if r.Direction == tcpstate.Inbound {
		if arrow = " ← "; l.ASCII {
			arrow = " < "
		}
	}
	if narrow >= shortAddresses {
		return ":" + strconv.Itoa(int(r.Guest.Port())) + arrow + addrPort(r.Peer)
	}
	return addrPort(r.Guest) + arrow + addrPort(r.Peer)
}

// widths are the widest of each column.
func (t *grid) widths() []int {
	var all []int
	for _, c := range t.columns {
		most := utf8.RuneCountInString(c.name)
		for _, v := range c.cells {
			most = max(most, utf8.RuneCountInString(v.text))
		}
		all = append(all, most)
	}
	return all
}

func (t *grid) width() int {
	sum := 0
	for _, w := range t.widths() {
		sum += w + 1
	}
	return sum - 1
}

func (t *grid) append(b []byte) []byte {
	widths := t.widths()
	for row := -1; row < t.rows; row++ {
		d := drawing{Line: t.Line, b: b, begin: len(b)}
		for i, c := range t.columns {
			v := cell{text: c.name}
			if row >= 0 {
				v = c.cells[row]
			}
			if i > 0 {
				d.text(" ")
			}
			begin := d.width
			if c.right {
				d.column(begin + widths[i] - utf8.RuneCountInString(v.text))
			}
			d.color(v.color)
			if i == len(t.columns)-1 {
				v.text = d.fit(v.text, false)
			}
			d.text(v.text)
			d.plain()
			d.column(begin + widths[i])
		}
		b = d.end()
	}
	return b
}
