package view

import "tcpbox/stack/tcpstate"

// change draws a setting that has changed:
//
//	15:04:05.000    set stack.fin-timeout: 1m > 5s
func (d *drawing) change(c *tcpstate.Change) {
	d.left("", connWidth+1-len("set "))
	d.text("set ")
	if c.Leg != 0 {
		d.text(c.Leg.String() + ".")
	}
	d.text(printable(c.Key))
	d.text(": ")
	if c.From != "" {
		d.text(printable(c.From))
		d.arrow()
	}
	d.text(printable(c.To))
}
