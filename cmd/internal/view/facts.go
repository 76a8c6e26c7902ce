package view

import (
	"strconv"
	"strings"

	"tcpbox/stack/tcpstate"
)

// facts draws what is known of a connection besides its states, behind its
// number: what it was and, when it has ended, how.
func (d *drawing) facts(f *tcpstate.Facts) {
	d.color(faint)
	d.left("", legWidth+1)
	var parts []string
	add := func(part string) {
		if part != "" {
			parts = append(parts, part)
		}
	}
	add(Ending(f.Closed))
	if f.Frozen != nil {
		add(map[bool]string{true: "frozen", false: "thawed"}[*f.Frozen])
	}
	if f.Bytes != nil {
		add(Bytes(f.Bytes.Outbound) + " out, " + Bytes(f.Bytes.Inbound) + " in")
	}
	if p := Process(f); p != "" {
		add("of " + p)
	}
	if f.Name != "" {
		add("to " + printable(f.Name))
	}
	if f.Rule != "" {
		add("by " + printable(f.Rule))
	}
	if f.Path != nil {
		add("rtt " + Age(f.Path.RTT, d.ASCII))
		if n := f.Path.Retransmits; n > 0 {
			add(strconv.FormatUint(uint64(n), 10) + " sent again")
		}
	}
	d.text(d.fit(strings.Join(parts, ", "), false))
	d.plain()
}

// Ending says who closed first and how, as "guest FIN"; "" if that is not known.
func Ending(c *tcpstate.Ending) string {
	if c == nil {
		return ""
	}
	return c.String()
}

// Process names the process of a connection, as "curl[4711]"; "" if it is not
// known.
func Process(f *tcpstate.Facts) string {
	if f.PID == 0 {
		return printable(f.Command)
	}
	return printable(f.Command) + "[" + strconv.Itoa(f.PID) + "]"
}

// Bytes returns n in at most six characters: "83", "1.21k", "999M".
func Bytes(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return strconv.FormatUint(n, 10)
	}
	scale := uint64(1)
	unit := -1
	for n/scale >= 1000 {
		scale *= 1000
		unit++
	}
	whole, rest := n/scale, n%scale
	text := strconv.FormatUint(whole, 10)
	if whole < 100 {
		decimals := 2
		if whole >= 10 {
			decimals = 1
		}
		fraction := strconv.FormatUint(rest/(scale/1000)+1000, 10)[1:]
		text += "." + fraction[:decimals]
	}
	return text + units[unit:unit+1]
}
