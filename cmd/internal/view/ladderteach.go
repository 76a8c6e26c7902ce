package view

import (
	"fmt"
	"strings"

	"tcpbox/stack/legs"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// letters are the textbook's names of numbers: j and k for the initial ones, of
// who asked first and of the other; m and n for those of the FINs, of who closed
// first and of the other.
func letters(lad *legs.Ladder) (initial, final map[tcpstate.Leg]string) {
	initial, final, _ = named(lad)
	return initial, final
}

// named returns the letters, and the number of each end's first FIN: before it
// nobody knows its letter.
func named(lad *legs.Ladder) (initial, final map[tcpstate.Leg]string, finAt map[tcpstate.Leg]int) {
	initial, final, finAt = make(map[tcpstate.Leg]string), make(map[tcpstate.Leg]string), make(map[tcpstate.Leg]int)
	for i := range lad.Rungs {
		r := &lad.Rungs[i]
		if r.Segment == nil {
			continue
		}
		name := func(of map[tcpstate.Leg]string, first, second string) {
			if of[r.Sender()] == "" {
				of[r.Sender()] = []string{first, second}[min(len(of), 1)]
			}
		}
		if r.TCP.Flags.Has(packet.SYN) {
			name(initial, "j", "k")
		}
		if r.TCP.Flags.Has(packet.FIN) {
			if final[r.Sender()] == "" {
				finAt[r.Sender()] = r.Number
			}
			name(final, "m", "n")
		}
	}
	return initial, final, finAt
}

// symbol writes a sequence number of leg, whose relative value is known too, as a
// textbook does in the segment of that number.
func symbol(lad *legs.Ladder, number int, leg tcpstate.Leg, value, relative uint32) string {
	initial, final, finAt := named(lad)
	if fin, ok := lad.FIN[leg]; ok && number >= finAt[leg] {
		switch value {
		case fin:
			return final[leg]
		case fin + 1:
			return final[leg] + "+1"
		}
	}
	switch {
	case initial[leg] == "":
		return fmt.Sprint(relative)
	case relative == 0:
		return initial[leg]
	}
	return fmt.Sprintf("%s+%d", initial[leg], relative)
}

// other is the end at the other side.
func other(leg tcpstate.Leg) tcpstate.Leg {
	if leg == tcpstate.Guest {
		return tcpstate.Stack
	}
	return tcpstate.Guest
}

func seqSymbol(lad *legs.Ladder, r *legs.Rung) string {
	return symbol(lad, r.Number, r.Sender(), r.TCP.Seq, r.Seq)
}

func ackSymbol(lad *legs.Ladder, r *legs.Rung) string {
	return symbol(lad, r.Number, other(r.Sender()), r.TCP.Ack, r.Ack)
}

// teachLabel is the label of a segment as a textbook writes it.
func teachLabel(lad *legs.Ladder, r *legs.Rung) string {
	var words []string
	flags := r.TCP.Flags
	switch {
	case flags.Has(packet.RST):
		words = append(words, "RST")
	case flags.Has(packet.SYN):
		words = append(words, "SYN="+seqSymbol(lad, r))
	}
	if r.Segment.Payload > 0 {
		words = append(words, fmt.Sprintf("seq=%s, %d bytes", seqSymbol(lad, r), r.Segment.Payload))
	}
	if flags.Has(packet.FIN) {
		fin := r.TCP.Seq + uint32(r.Segment.Payload)
		words = append(words, "FIN="+symbol(lad, r.Number, r.Sender(), fin, r.Seq+uint32(r.Segment.Payload)))
	}
	if flags.Has(packet.ACK) {
		words = append(words, "ACK="+ackSymbol(lad, r))
	}
	if len(words) == 0 {
		words = append(words, "seq="+seqSymbol(lad, r))
	}
	return strings.Join(words, ", ")
}

// teachLegend explains the letters.
func teachLegend(lad *legs.Ladder) (lines []string) {
	initial, final := letters(lad)
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		if name := initial[leg]; name != "" {
			lines = append(lines, fmt.Sprintf("%s = %d, where the %v's numbers begin (chosen at random)", name, lad.ISS[leg], leg))
		}
	}
	for _, leg := range []tcpstate.Leg{tcpstate.Guest, tcpstate.Stack} {
		if name := final[leg]; name != "" {
			where := ""
			if iss, ok := lad.ISS[leg]; ok {
				where = fmt.Sprintf(" = %s+%d", initial[leg], lad.FIN[leg]-iss)
			}
			lines = append(lines, fmt.Sprintf("%s%s, the number of the %v's FIN", name, where, leg))
		}
	}
	return lines
}

// flagMeanings says what the flags of a header mean, in the order of flagNames.
var flagMeanings = map[packet.Flags]string{
	packet.SYN: "SYN: synchronise, the numbers begin here",
	packet.FIN: "FIN: finished, nothing follows from this end",
	packet.RST: "RST: reset, the connection is over at once",
	packet.PSH: "PSH: push, give it to the program now",
	packet.URG: "URG: the urgent pointer is valid",
	packet.ACK: "ACK: the acknowledgment number is valid",
	packet.ECE: "ECE: congestion was met",
	packet.CWR: "CWR: the sender has slowed down",
}

// teach explains a segment.
func teach(lad *legs.Ladder, r *legs.Rung) []string {
	var lines []string
	flags := r.TCP.Flags
	var set []string
	for _, n := range flagNames {
		if flags.Has(n.flag) {
			set = append(set, flagMeanings[n.flag])
		}
	}
	me, it := r.Sender().String(), other(r.Sender()).String()
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	lines = append(lines, set...)
	switch {
	case flags.Has(packet.RST):
		say("The %s wants no more of this. Nothing acknowledges an RST.", me)
	case flags.Has(packet.SYN | packet.ACK):
		say("The %s agrees. Its own numbers begin with %s, and it expects %s next: the SYN has taken one number.", me, seqSymbol(lad, r), ackSymbol(lad, r))
		say("It offers: %s.", synOptions(r))
	case flags.Has(packet.SYN):
		say("The %s asks. SYN takes one number, so its data will begin with %s.", me, symbol(lad, r.Number, r.Sender(), r.TCP.Seq+1, r.Seq+1))
		say("It offers: %s.", synOptions(r))
	default:
		lines = append(lines, teachGoingOn(lad, r, me, it)...)
	}
	return lines
}

// teachGoingOn explains what is no SYN and no RST.
func teachGoingOn(lad *legs.Ladder, r *legs.Rung, me, it string) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if n := r.Segment.Payload; n > 0 {
		last := uint32(n) - 1
		say("Data: the numbers %s to %s.", seqSymbol(lad, r), symbol(lad, r.Number, r.Sender(), r.TCP.Seq+last, r.Seq+last))
	}
	its := other(r.Sender())
	fin, hasFIN := lad.FIN[its]
	iss, hasSYN := lad.ISS[its]
	coversFIN := hasFIN && r.TCP.Ack == fin+1
	if r.TCP.Flags.Has(packet.FIN) {
		say("The %s has said all: FIN takes one number.", me)
		if !hasFIN || !coversFIN {
			say("It goes on receiving.")
		}
		if r.Has(legs.MergedFIN) {
			say("It had nothing left to send when the %s's FIN came, so the ACK and its own FIN go together: a close of three segments, not four.", it)
			return lines
		}
	}
	switch {
	case !r.TCP.Flags.Has(packet.ACK):
	case coversFIN:
		say("The %s's FIN has arrived: %s is expected next, which will never come.", it, ackSymbol(lad, r))
	case hasSYN && r.TCP.Ack == iss+1 && r.Seq == 1 && r.Segment.Payload == 0 && !r.TCP.Flags.Has(packet.FIN):
		say("The %s's SYN has arrived. Each end now knows that the other hears it.", it)
	default:
		say("All before %s has arrived.", ackSymbol(lad, r))
	}
	return lines
}
