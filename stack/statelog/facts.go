package statelog

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"time"

	"tcpbox/stack/tcpstate"
)

// appendFacts appends the fields of facts that are known.
func appendFacts(b []byte, f *tcpstate.Facts) []byte {
	begin := len(b)
	field := func(name string) {
		if len(b) > begin {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
	}
	text := func(name, value string) {
		if value != "" {
			field(name)
			b = appendString(b, value)
		}
	}
	number := func(name string, n uint64) {
		field(name)
		b = strconv.AppendUint(b, n, 10)
	}
	if f.Guest.IsValid() {
		field("guest")
		b = appendAddrPort(b, f.Guest)
	}
	if f.Peer.IsValid() {
		field("peer")
		b = appendAddrPort(b, f.Peer)
	}
	if f.Direction != 0 {
		text("direction", f.Direction.String())
	}
	if f.PID > 0 {
		number("pid", uint64(f.PID))
	}
	text("command", f.Command)
	text("name", f.Name)
	text("rule", f.Rule)
	if f.Bytes != nil {
		number("bytes_out", f.Bytes.Outbound)
		number("bytes_in", f.Bytes.Inbound)
	}
	if f.Closed != nil {
		text("closed_by", f.Closed.By.String())
		text("closed_how", f.Closed.How.String())
	}
	if f.Path != nil {
		field("rtt")
		b = appendSeconds(b, f.Path.RTT)
		number("retransmits", uint64(f.Path.Retransmits))
	}
	if f.Frozen != nil {
		field("frozen")
		b = strconv.AppendBool(b, *f.Frozen)
	}
	return b
}

// factsJSON is facts as they are decoded; nil is a field that is not there.
type factsJSON struct {
	Guest       *netip.AddrPort     `json:"guest"`
	Peer        *netip.AddrPort     `json:"peer"`
	Direction   *tcpstate.Direction `json:"direction"`
	PID         *int                `json:"pid"`
	Command     *string             `json:"command"`
	Name        *string             `json:"name"`
	Rule        *string             `json:"rule"`
	BytesOut    *uint64             `json:"bytes_out"`
	BytesIn     *uint64             `json:"bytes_in"`
	ClosedBy    *tcpstate.Leg       `json:"closed_by"`
	ClosedHow   *tcpstate.How       `json:"closed_how"`
	RTT         *json.Number        `json:"rtt"`
	Retransmits *uint32             `json:"retransmits"`
	Frozen      *bool               `json:"frozen"`
}

var (
	errOneOfTwo = errors.New("of two fields of \"facts\" that belong together one is missing")
	errBadPID   = errors.New("\"pid\" is not the number of a process")
)

// facts checks what was decoded and returns it.
func (j *factsJSON) facts(at time.Time, conn tcpstate.Conn) (*tcpstate.Facts, error) {
	f := &tcpstate.Facts{
		Time: at, Conn: conn, Guest: value(j.Guest), Peer: value(j.Peer), Direction: value(j.Direction),
		PID: value(j.PID), Command: value(j.Command), Name: value(j.Name), Rule: value(j.Rule), Frozen: j.Frozen,
	}
	switch {
	case (j.BytesOut == nil) != (j.BytesIn == nil), (j.ClosedBy == nil) != (j.ClosedHow == nil), (j.RTT == nil) != (j.Retransmits == nil):
		return nil, errOneOfTwo
	case f.PID < 0, f.PID > math.MaxInt32:
		return nil, errBadPID
	}
	if j.BytesOut != nil {
		f.Bytes = &tcpstate.Bytes{Outbound: *j.BytesOut, Inbound: *j.BytesIn}
	}
	if j.ClosedBy != nil {
		f.Closed = &tcpstate.Ending{By: *j.ClosedBy, How: *j.ClosedHow}
	}
	if j.RTT != nil {
		rtt, err := parseSeconds("rtt", j.RTT.String())
		if err != nil {
			return nil, err
		}
		f.Path = &tcpstate.Path{RTT: rtt, Retransmits: *j.Retransmits}
	}
	return f, nil
}

// value is what p points to, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
