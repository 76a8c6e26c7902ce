package view

import (
	"encoding/binary"
	"fmt"
	"strings"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// field is one of a TCP header, in the order of RFC 9293 section 3.1.
type field struct {
	bits  int
	name  string
	value string
	note  string // what it means; may be empty
}

// decode lists the fields of a segment's header.
func decode(r *legs.Rung) []field {
	b, h := r.Segment.Header, &r.TCP
	number := func(v any) string { return fmt.Sprint(v) }
	ackNote := fmt.Sprintf("relative %d", r.Ack)
	if !h.Flags.Has(packet.ACK) {
		ackNote = "not valid: ACK is 0"
	}
	windowNote := fmt.Sprintf("%d bytes", r.Window)
	if r.Window != int(h.Window) {
		windowNote += ", by the scale of the SYN"
	}
	sum := binary.BigEndian.Uint16(b[16:])
	sumNote := ""
	if r.Segment.Partial {
		sumNote = "not complete: left to the device"
	}
	urgentNote := ""
	if !h.Flags.Has(packet.URG) {
		urgentNote = "not valid: URG is 0"
	}
	fields := []field{
		{16, "source port", number(binary.BigEndian.Uint16(b)), ""},
		{16, "destination port", number(binary.BigEndian.Uint16(b[2:])), ""},
		{32, "sequence number", number(h.Seq), fmt.Sprintf("relative %d", r.Seq)},
		{32, "acknowledgment number", number(h.Ack), ackNote},
		{4, "data offset", number(b[12] >> 4), fmt.Sprintf("words of 32 bits: the header has %d bytes", len(b))},
		{4, "reserved", number(b[12] & 0xf), ""},
	}
	for bit := 7; bit >= 0; bit-- {
		flag := packet.Flags(1 << bit)
		set := "0"
		if h.Flags.Has(flag) {
			set = "1"
		}
		_, meaning, _ := strings.Cut(flagMeanings[flag], ": ")
		fields = append(fields, field{1, flag.String(), set, meaning})
	}
	fields = append(
		fields,
		field{16, "window", number(h.Window), windowNote},
		field{16, "checksum", fmt.Sprintf("0x%04x", sum), sumNote},
		field{16, "urgent pointer", number(h.Urgent), urgentNote},
	)
	options, bad := packet.TCPOptions(b)
	for _, o := range options {
		fields = append(fields, decodeOption(o)...)
	}
	if bad > 0 {
		fields = append(fields, field{8 * bad, "malformed options", fmt.Sprintf("0x%x", b[len(b)-bad:]), ""})
	}
	return fields
}

// HeaderBits is how wide the fields of a TCP header without options are, by the names
// that Ladder.Decode gives them; and "flags", how many of these there are.
func HeaderBits() map[string]int {
	bits := make(map[string]int)
	for _, f := range decode(&legs.Rung{Segment: &statelog.Segment{Header: make([]byte, 20)}}) {
		bits[f.name] = f.bits
		if f.bits == 1 {
			bits["flags"]++
		}
	}
	return bits
}

// optionNames are those of the kinds that are known here.
var optionNames = map[uint8]string{
	packet.OptionEnd: "end of options", packet.OptionNop: "no operation", packet.OptionMSS: "maximum segment size",
	packet.OptionWindowScale: "window scale", packet.OptionSACKPermitted: "SACK permitted",
	packet.OptionSACK: "SACK", packet.OptionTimestamps: "timestamps",
}

func decodeOption(o packet.Option) []field {
	name, known := optionNames[o.Kind]
	if !known {
		name = "not known here"
	}
	fields := []field{{8, "option kind", fmt.Sprint(o.Kind), name}}
	if o.Kind == packet.OptionEnd || o.Kind == packet.OptionNop {
		return fields
	}
	fields = append(fields, field{8, "option length", fmt.Sprint(len(o.Data) + 2), ""})
	be32 := func(at int) string { return fmt.Sprint(binary.BigEndian.Uint32(o.Data[at:])) }
	switch {
	case o.Kind == packet.OptionMSS && len(o.Data) == 2:
		return append(fields, field{16, "largest segment", fmt.Sprint(binary.BigEndian.Uint16(o.Data)), "bytes of data"})
	case o.Kind == packet.OptionWindowScale && len(o.Data) == 1:
		return append(fields, field{8, "shift", fmt.Sprint(o.Data[0]), fmt.Sprintf("windows are times %d", 1<<min(o.Data[0], 14))})
	case o.Kind == packet.OptionTimestamps && len(o.Data) == 8:
		return append(fields, field{32, "timestamp value", be32(0), ""}, field{32, "timestamp echo", be32(4), ""})
	case o.Kind == packet.OptionSACK && len(o.Data)%8 == 0:
		for at := 0; at < len(o.Data); at += 8 {
			fields = append(fields, field{32, "left edge", be32(at), ""}, field{32, "right edge", be32(at + 4), ""})
		}
		return fields
	case len(o.Data) > 0:
		return append(fields, field{8 * len(o.Data), "data", fmt.Sprintf("0x%x", o.Data), ""})
	}
	return fields
}

// appendDecoded lists the fields of a header as a table.
func appendDecoded(b []byte, lad *legs.Ladder, r *legs.Rung) []byte {
	b = fmt.Appendf(b, "segment %d, at %s, from the %v: %d bytes of header, %d of data\n", r.Number, at(lad, r), r.Sender(), len(r.Segment.Header), r.Segment.Payload)
	b = append(b, "  bits field                 value\n"...)
	for _, f := range decode(r) {
		line := fmt.Sprintf("%6d %-21s %-10s %s", f.bits, f.name, f.value, f.note)
		b = append(b, strings.TrimRight(line, " ")...)
		b = append(b, '\n')
	}
	return b
}

// Mermaid appends the ladder as a sequence diagram in the language of Mermaid,
// which Markdown renders in many places.
func (l Ladder) Mermaid(b []byte, lad *legs.Ladder) []byte {
	line := func(format string, args ...any) { b = fmt.Appendf(b, format+"\n", args...) }
	line("sequenceDiagram")
	line("    participant G as guest %s", addrPort(lad.Guest))
	line("    participant S as stack %s", addrPort(lad.Remote))
	for _, s := range []string{strings.Replace(Ladder{ASCII: true}.title(lad), "#", "", 1), summary(lad)} {
		line("    Note over G,S: %s", mermaidText(s))
	}
	steps := func(r *legs.Rung, leg tcpstate.Leg) {
		for _, s := range r.Steps {
			if s.Leg != leg {
				continue
			}
			side := "left of G"
			if leg == tcpstate.Stack {
				side = "right of S"
			}
			line("    Note %s: %s", side, l.state(s.To))
		}
	}
	for i := range lad.Rungs {
		r := &lad.Rungs[i]
		notes := l.notes(lad, r)
		if r.Segment == nil {
			for _, n := range notes {
				line("    Note over G,S: %s", mermaidText(n))
			}
			steps(r, tcpstate.Guest)
			steps(r, tcpstate.Stack)
			continue
		}
		if s := skippedBefore(r); s != "" {
			line("    Note over G,S: %s", mermaidText(s))
		}
		from, to, arrow := "G", "S", "->>"
		if r.Sender() == tcpstate.Stack {
			from, to = to, from
		}
		if r.Has(legs.Lost) {
			arrow = "-x"
		}
		steps(r, r.Sender())
		line("    %s%s%s: %s", from, arrow, to, mermaidText(l.label(lad, r)))
		steps(r, other(r.Sender()))
		for _, n := range notes {
			line("    Note over G,S: %s", mermaidText(n))
		}
	}
	return b
}

// mermaidText writes what would end a text of Mermaid by its number.
func mermaidText(s string) string {
	return strings.NewReplacer("#", "#35;", ";", "#59;").Replace(s)
}
