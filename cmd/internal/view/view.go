// Package view draws records of the state log for people.
//
// Line draws one record on one line, with the columns that make a handshake or
// a teardown readable from top to bottom:
//
//	    TIME     CONN LEG      FROM         → TO              AGE CAUSE        GUEST → DESTINATION
//	03:04:05.006   #7 stack    CLOSED       → SYN-RECEIVED        got SYN      198.18.0.2:40001 → 198.18.0.16:80
//	03:04:05.006   #7 stack    SYN-RECEIVED → ESTABLISHED   412µs got ACK      198.18.0.2:40001 → 198.18.0.16:80
//
// The addresses stand last because they are what varies in length, IPv6 most of
// all: everything before them keeps its column. On a narrow terminal they are
// shortened, and where not even the destination fits, only the line that begins
// a connection shows it, in the place of age and cause.
package view

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Widths of the columns, in characters.
const (
	connWidth  = 5 // up to #9999
	legWidth   = 8 // upstream
	stateWidth = 12
	ageWidth   = 6
	causeWidth = 12 // got SYN-ACK, shutdown()

	minRoom = 8 // nothing is cut to less

	tailColumn = len("03:04:05.006 ") + connWidth + 1 + legWidth + 1 + 2*stateWidth + 3 + 1
)

// Line draws records. The zero value draws them for a file: whole, without
// colour.
type Line struct {
	// Width is the number of columns that a line should fit into. Zero means
	// any number.
	Width int

	// Color marks states and resets by ANSI colours.
	Color bool

	// ASCII avoids other characters, for terminals whose locale is not UTF-8.
	ASCII bool

	// Netstat spells states as netstat(8) does, SYN_RECV for SYN-RECEIVED.
	Netstat bool

	// Location is the time zone of the times. Nil means the local one.
	Location *time.Location
}

// Header appends the line of the columns' names.
func (l Line) Header(b []byte) []byte {
	d := drawing{Line: l, b: b, begin: len(b)}
	d.text("    TIME     ")
	d.left("CONN ", connWidth+1)
	d.left("LEG", legWidth+1)
	d.left("FROM", stateWidth)
	d.arrow()
	d.left("TO", stateWidth+1)
	d.right("AGE", ageWidth)
	d.text(" CAUSE")
	if whole := "GUEST" + l.arrowText() + "DESTINATION"; l.Width == 0 || tailColumn+ageWidth+1+causeWidth+1+utf8.RuneCountInString(whole) <= l.Width {
		d.left("", causeWidth-len("CAUSE")+1)
		d.text(whole)
	}
	return d.end()
}

// Append appends r as one line, with its line end. It is an Encode of
// statelog.WriterOptions.
func (l Line) Append(b []byte, r statelog.Record) []byte {
	d := drawing{Line: l, b: b, begin: len(b)}
	d.time(r.Time)
	d.text(" ")
	if r.Dropped > 0 {
		d.color(alarm)
		d.text("      ")
		d.text(strconv.FormatUint(r.Dropped, 10))
		if r.Dropped == 1 {
			d.text(" transition is missing here")
		} else {
			d.text(" transitions are missing here")
		}
		d.plain()
		return d.end()
	}
	if r.Set != nil {
		d.change(r.Set)
		return d.end()
	}
	d.right("#"+strconv.FormatUint(uint64(r.Conn), 10), connWidth)
	d.text(" ")
	if r.Facts != nil {
		d.facts(r.Facts)
		return d.end()
	}
	d.left(r.Leg.String(), legWidth+1)
	d.color(faint)
	d.left(d.state(r.From), stateWidth)
	d.arrow()
	d.plain()
	d.color(stateColor(r.To))
	d.text(d.state(r.To))
	d.plain()
	d.tail(r)
	return d.end()
}

func (l Line) state(s tcpstate.State) string {
	if l.Netstat {
		return s.Netstat()
	}
	return s.String()
}

// tail draws what stands behind the states: age, cause and addresses, or what
// of that fits.
func (d *drawing) tail(r statelog.Record) {
	why := cause(r.Cause)
	addrColumn := tailColumn + ageWidth + 1 + max(causeWidth, utf8.RuneCountInString(why)) + 1
	addrs := d.addresses(r)
	shown := ""
	for _, form := range addrs {
		if d.Width == 0 || addrColumn+utf8.RuneCountInString(form) <= d.Width {
			shown = form
			break
		}
	}
	if shown == "" && r.From == tcpstate.Closed {
		d.beginning(addrs)
		return
	}
	d.column(tailColumn)
	d.right(d.age(r), ageWidth)
	d.text(" ")
	if r.Cause.Kind == tcpstate.BySegment && r.Cause.Which == "RST" {
		d.color(alarm)
	}
	d.text(d.fit(why, false))
	d.plain()
	if shown != "" {
		d.column(addrColumn)
		d.text(shown)
	}
}

// beginning draws the tail of a line that begins an endpoint and is too narrow
// for everything: the age is nothing and the cause is clear from the state, so
// the longest of addrs that fits stands in their place. If none does, the end of
// the last one is what tells hosts apart.
func (d *drawing) beginning(addrs []string) {
	const column = tailColumn + 1
	for _, form := range addrs {
		if column+utf8.RuneCountInString(form) <= d.Width {
			d.column(column)
			d.text(form)
			return
		}
	}
	form := addrs[len(addrs)-1]
	d.column(max(d.width+1, d.Width-utf8.RuneCountInString(form)))
	d.text(d.fit(form, true))
}

// fit returns s cut to the columns that are left: its beginning or, for end, its
// end. In a line that is far too narrow for anything it is left whole.
func (d *drawing) fit(s string, end bool) string {
	room := d.Width - d.width
	n := utf8.RuneCountInString(s)
	if d.Width == 0 || n <= room || room < minRoom {
		return s
	}
	ellipsis := "…"
	if d.ASCII {
		ellipsis = "~"
	}
	runes := []rune(s)
	if end {
		return ellipsis + string(runes[n-room+1:])
	}
	return string(runes[:room-1]) + ellipsis
}

// age returns how long From had lasted, in at most six characters; nothing
// where From did not last, because nothing came before.
func (d *drawing) age(r statelog.Record) string {
	if r.Age <= 0 && r.From == tcpstate.Closed {
		return ""
	}
	return Age(r.Age, d.ASCII)
}

// Age returns d in at most six characters, cut off rather than rounded:
// "412µs", "1.76ms", "59.9s", "4m05s", "99h59m", "12d03h".
func Age(d time.Duration, ascii bool) string {
	d = max(d, 0)
	micro := "µs"
	if ascii {
		micro = "us"
	}
	switch {
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + micro
	case d < time.Second:
		return threeDigits(d, time.Millisecond) + "ms"
	case d < time.Minute:
		return threeDigits(d, time.Second) + "s"
	case d < time.Hour:
		return twoUnits(d, time.Minute, "m", time.Second, "s")
	case d < 100*time.Hour:
		return twoUnits(d, time.Hour, "h", time.Minute, "m")
	}
	return twoUnits(d, 24*time.Hour, "d", time.Hour, "h")
}

// threeDigits returns d in units, below a thousand, as 1.76, 17.6 or 176.
func threeDigits(d, unit time.Duration) string {
	hundredths := int64(d / (unit / 100))
	whole, fraction := hundredths/100, hundredths%100
	text := strconv.FormatInt(whole, 10)
	switch {
	case whole < 10:
		return text + "." + strconv.FormatInt(fraction/10, 10) + strconv.FormatInt(fraction%10, 10)
	case whole < 100:
		return text + "." + strconv.FormatInt(fraction/10, 10)
	}
	return text
}

// twoUnits returns d as 4m05s: a number of the large unit, two digits of the
// small one.
func twoUnits(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	rest := int64(d % large / small)
	return strconv.FormatInt(int64(d/large), 10) + largeName + string([]byte{byte('0' + rest/10), byte('0' + rest%10)}) + smallName
}

// cause returns c in the words of somebody who watches the endpoint: what it
// got, what was called, which timer ran out.
func cause(c tcpstate.Cause) string {
	which := printable(c.Which)
	switch {
	case c.Kind == tcpstate.BySegment && which != "":
		return "got " + which
	case c.Kind == tcpstate.ByCall && which != "":
		return which + "()"
	}
	return printable(c.String())
}

// addresses returns the forms of r's addresses from the longest to the
// shortest. The guest, or the host's socket on the upstream leg, stands left;
// where the connection leads, right. A listener has one form.
func (d *drawing) addresses(r statelog.Record) []string {
	from, to := r.Local, r.Remote
	if r.Leg == tcpstate.Stack {
		from, to = to, from
	}
	switch {
	case !from.IsValid() && !to.IsValid():
		return []string{""}
	case !to.IsValid():
		return []string{addrPort(from)}
	case !from.IsValid():
		return []string{addrPort(to)}
	}
	arrow := d.arrowText()
	return []string{
		addrPort(from) + arrow + addrPort(to),
		":" + strconv.Itoa(int(from.Port())) + arrow + addrPort(to),
		addrPort(to),
	}
}

func addrPort(ap netip.AddrPort) string { return printable(ap.String()) }

// printable returns s as it is if it is harmless to a terminal, and else quoted.
func printable(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return strconv.QuoteToASCII(s)
		}
	}
	return s
}
