// Package statelog is the log of TCP transitions as a product: a versioned
// record, one JSON object a line, with a Writer that never holds anybody up and
// a Reader that trusts nothing.
//
//	stack, sockets, wire ──Push──▶ Queue ──Run──▶ sinks
//	                                               ├─ Writer ──▶ file, pipe, terminal
//	                                               └─ whatever else takes Items
//
// Queue is where producers, which hold locks of the packet path, hand over what
// they saw; it keeps their order. Both Queue and Writer are bounded. What does
// not fit is counted, and a marker stands in its place: a log without markers
// is complete.
//
// The form of a line, version 1 (here on several lines):
//
//	{"v":1,                                  version of the form
//	 "time":"2026-01-02T03:04:05.000000006Z", RFC 3339, UTC, always nine decimals
//	 "sandbox":"web",                        the sandbox's name
//	 "conn":17,                              the legs of a connection share it
//	 "leg":"stack",                          guest, stack or upstream
//	 "local":"198.18.0.16:80",               the endpoint whose state changed
//	 "remote":"198.18.0.2:40001",            its peer; "" for a listener
//	 "from":"ESTABLISHED",                   states as RFC 9293 spells them
//	 "to":"CLOSE-WAIT",
//	 "cause":"segment FIN",                  a kind, and which of that kind
//	 "source":"stack",                       who saw it
//	 "age":0.001234567}                      seconds spent in from, nine decimals
//
//	{"v":1,"time":"…","sandbox":"web","conn":17,     what else is known of it
//	 "facts":{"guest":"198.18.0.2:40001",    the guest's end
//	          "peer":"198.18.0.16:80",       the other end, as the guest sees it
//	          "direction":"outbound",        the guest opened it; else inbound
//	          "pid":4711,"command":"curl",   the guest's process, as the host numbers it
//	          "name":"web",                  that the guest asked its resolver for
//	          "rule":"net public",           what admitted it
//	          "bytes_out":83,"bytes_in":1211,  of data, from the guest and to it
//	          "closed_by":"guest",           who closed first: guest, upstream, or
//	                                         stack: a peer, or tcpbox itself
//	          "closed_how":"FIN",            FIN, RST, timeout, error, stop
//	          "rtt":0.000412000,             of the host's socket, in seconds
//	          "retransmits":0}}              segments that it sent again
//
//	{"v":1,"time":"…","sandbox":"web","dropped":3}   three records are missing here
//
// A segment between guest and stack, where a trace of them was asked for (see
// Segment), is a line of another kind. A Reader passes over them, unless it is
// told who takes them. The segments of a connection stand together, behind its
// last record or at the end, in the order in which they passed:
//
//	{"v":1,"time":"…","sandbox":"web","conn":17,
//	 "segment":"guest",                      who sent it: guest or stack
//	 "src":"198.18.0.2:40001","dst":"198.18.0.16:80",
//	 "header":"9c4100500000…",               the TCP header, as it stands in the packet
//	 "partial":true,                         its checksum was left to the device
//	 "payload":0,                            bytes behind the header
//	 "gso":0,                                or those of each segment it stands for
//	 "skipped":0,                            segments before it that were not kept
//	 "lost":false}                           it was dropped on purpose
//
// Fields come in this order. All are there, but for those of facts: each line has
// what was learnt, which adds to what the lines before said of the connection.
// What is not known has no field. A field that is added or changes its meaning
// makes a new version.
package statelog

import (
	"net/netip"
	"time"

	"tcpbox/stack/tcpstate"
)

// Version is the version of the form that this package writes and reads.
const Version = 1

// Record is one line of the log: a transition, facts, a change of a setting, or
// a marker.
type Record struct {
	Time    time.Time
	Sandbox string

	// Dropped, if not zero, makes the record a marker: so many records are
	// missing where it stands. The fields below are zero then.
	Dropped uint64

	// Facts, if not nil, makes the record one of facts: of the fields below only
	// Conn is set then. It belongs to everybody who has the record: nobody
	// changes it.
	Facts *tcpstate.Facts

	// Set, if not nil, makes the record one of a setting that has changed: the
	// fields below are zero then. It belongs to everybody, like Facts.
	Set *tcpstate.Change

	Conn   tcpstate.Conn
	Leg    tcpstate.Leg
	Local  netip.AddrPort
	Remote netip.AddrPort // the zero AddrPort for a listener
	From   tcpstate.State
	To     tcpstate.State
	Cause  tcpstate.Cause
	Source tcpstate.Source
	Age    time.Duration // how long From had lasted
}

// IsTransition reports whether the record is one: of a state that has changed.
func (r *Record) IsTransition() bool { return r.Dropped == 0 && r.Facts == nil && r.Set == nil }

// Item is what a Queue hands over: a transition, facts, a change of a setting, or
// a marker.
type Item struct {
	// Dropped, if not zero, makes the item a marker: so many transitions are
	// missing where it stands. Of Transition only Time is set then: that of the
	// transition that comes next, or zero if none has come yet.
	Dropped uint64

	// Facts, if not nil, is what the item holds; Transition is zero then.
	Facts *tcpstate.Facts

	// Set, if not nil, is what the item holds; Transition is zero then.
	Set *tcpstate.Change

	Transition tcpstate.Transition
}

// IsTransition reports whether the item is one.
func (it *Item) IsTransition() bool { return it.Dropped == 0 && it.Facts == nil && it.Set == nil }

// time is when what the item holds happened.
func (it *Item) time() time.Time {
	switch {
	case it.Facts != nil:
		return it.Facts.Time
	case it.Set != nil:
		return it.Set.Time
	}
	return it.Transition.Time
}

// Record returns the record of the item in sandbox. A marker without a time
// gets the present one.
func (it *Item) Record(sandbox string) Record {
	t := &it.Transition
	if it.Dropped > 0 {
		at := t.Time
		if at.IsZero() {
			at = time.Now()
		}
		return Record{Time: at, Sandbox: sandbox, Dropped: it.Dropped}
	}
	if f := it.Facts; f != nil {
		return Record{Time: f.Time, Sandbox: sandbox, Conn: f.Conn, Facts: f}
	}
	if c := it.Set; c != nil {
		return Record{Time: c.Time, Sandbox: sandbox, Set: c}
	}
	return Record{
		Time: t.Time, Sandbox: sandbox,
		Conn: t.Conn, Leg: t.Leg, Local: t.Local, Remote: t.Remote,
		From: t.From, To: t.To, Cause: t.Cause, Source: t.Source, Age: t.Age,
	}
}

// Fan returns a function that gives each batch to every sink, in order. A sink
// keeps nothing of the batch; one that waits makes the others wait.
func Fan(sinks ...func([]Item)) func([]Item) {
	return func(items []Item) {
		for _, sink := range sinks {
			sink(items)
		}
	}
}
