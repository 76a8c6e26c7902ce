package view

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/legs"
	"tcpbox/stack/sim"
	"tcpbox/tun/packet"
)

// TestDecodeByTshark compares each line that --decode prints with what tshark
// reads in the same header: for the segments of every play, and for headers that
// no host here sends.
func TestDecodeByTshark(t *testing.T) {
	testnet.Programs(t, "tshark")
	var all []recording
	for _, row := range plays {
		p := newPlay(t)
		row.run(p)
		all = append(all, record(t, row.name, p.n.Events()))
	}
	all = append(all, oddHeaders(t)...)
	var frames []testnet.Frame
	for i := range all {
		all[i].move(t, i)
		frames = append(frames, all[i].frames...)
	}
	told := testnet.Tshark(t, frames, decodedFields...)
	seen := make(map[string]int)
	for i := range all {
		n := len(all[i].frames)
		all[i].compare(t, told[:n], seen)
		told = told[n:]
	}
	for name := range readers {
		if seen[name] == 0 {
			t.Errorf("no header has a line %q", name)
		}
	}
	t.Logf("%d headers; lines by name: %v", len(frames), seen)
}

// recording is what was sent in one connection.
type recording struct {
	name   string
	events []sim.Event
	frames []testnet.Frame
}

func record(t *testing.T, name string, events []sim.Event) recording {
	t.Helper()
	r := recording{name: name}
	for _, e := range events {
		if e.Packet != nil {
			r.events = append(r.events, e)
		}
	}
	if len(r.events) == 0 {
		t.Fatalf("%s: no segments", name)
	}
	return r
}

// move gives the guest an address of its own, so that connections with the same
// ports are several in one recording, and makes the frames.
func (r *recording) move(t *testing.T, number int) {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{198, 18, 1, byte(number)})
	for i := range r.events {
		e := &r.events[i]
		h, err := packet.Parse(e.Packet)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if e.FromGuest {
			err = h.SetSrc(e.Packet, netip.AddrPortFrom(addr, h.Src.Port()), false)
		} else {
			err = h.SetDst(e.Packet, netip.AddrPortFrom(addr, h.Dst.Port()), false)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.frames = append(r.frames, testnet.Frame{Time: e.Time, Data: e.Packet})
	}
}

// compare decodes the segments and compares each line with what tshark has told.
func (r *recording) compare(t *testing.T, told []map[string][]string, seen map[string]int) {
	t.Helper()
	ladders := legs.NewLadders(1)
	for _, e := range r.events {
		ladders.Segment(new(segmentOf(t, e)))
	}
	lad, err := ladders.Ladder()
	if err != nil {
		t.Fatal(err)
	}
	for i := range lad.Rungs {
		rung := &lad.Rungs[i]
		fields := told[i]
		complain := func(format string, args ...any) {
			t.Errorf("%s, segment %d: %s\n%x", r.name, rung.Number, fmt.Sprintf(format, args...), rung.Segment.Header)
		}
		lines := strings.Split(strings.TrimSuffix(string(appendDecoded(nil, lad, rung)), "\n"), "\n")
		if want := fmt.Sprintf(": %s bytes of header, %s of data", one(fields, "tcp.hdr_len"), one(fields, "tcp.len")); !strings.HasSuffix(lines[0], want) {
			complain("--decode begins with %q, tshark has %q", lines[0], want)
		}
		walk := &walk{fields: fields, iss: lad.ISS[other(rung.Sender())], unseen: make(map[string]uint64)}
		if _, seen := lad.ISS[rung.Sender()]; !seen {
			walk.unseen["tcp.seq"] = 1
		}
		if _, seen := lad.ISS[other(rung.Sender())]; !seen {
			walk.unseen["tcp.ack"] = 1
		}
		bits := 0
		for _, line := range lines[2:] {
			m := decodedLine.FindStringSubmatch(line)
			if m == nil {
				complain("what is %q?", line)
				continue
			}
			name, value, note := strings.TrimSpace(m[2]), m[3], m[4]
			read := readers[name]
			if read == nil {
				complain("nothing here reads %q", name)
				continue
			}
			seen[name]++
			n, _ := strconv.Atoi(m[1])
			bits += n
			want, meaning := read(walk)
			if value != want || note != meaning {
				complain("--decode has %q, tshark %s and %q", line, want, meaning)
			}
		}
		walk.finish(bits, complain)
	}
}

var decodedLine = regexp.MustCompile(`^ *(\d+) (.{1,21}) (\S+) *(.*)$`)

// walk goes through the fields of tshark in the order in which --decode prints
// them.
type walk struct {
	fields map[string][]string
	iss    uint32 // to which tshark's edges of SACK are relative

	// unseen is 1 for a number of an end whose SYN was not seen. Of that the first
	// number is 0 here, and 1 for tshark.
	unseen map[string]uint64

	taken  map[string]int
	at     int // in the options
	length int // of the latest option
}

// one is the only value of a field; "" if it is not there.
func one(fields map[string][]string, name string) string {
	if v := fields[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// next is the next value of a field that is there several times.
func (w *walk) next(name string) string {
	if w.taken == nil {
		w.taken = make(map[string]int)
	}
	i := w.taken[name]
	w.taken[name]++
	if v := w.fields[name]; i < len(v) {
		return v[i]
	}
	return "none"
}

// number is a field as a number.
func (w *walk) number(name string) uint64 {
	n, _ := strconv.ParseUint(one(w.fields, name), 0, 64)
	return n
}

// relative is the note of a number.
func (w *walk) relative(name string) string {
	return fmt.Sprintf("relative %d", w.number(name)-w.unseen[name])
}

// options are the bytes of the options.
func (w *walk) options() []byte {
	b, _ := hex.DecodeString(strings.ReplaceAll(one(w.fields, "tcp.options"), ":", ""))
	return b
}

// finish looks whether tshark has more than was printed. What stands behind the
// end of the list is padding, of which tshark lists each byte.
func (w *walk) finish(bits int, complain func(string, ...any)) {
	padding := 0
	if at := slices.Index(w.fields["tcp.option_kind"], "0"); at >= 0 {
		padding = len(w.options()) - w.at - w.length
		w.fields["tcp.option_kind"] = w.fields["tcp.option_kind"][:at+1]
	}
	for _, name := range decodedFields {
		if taken := w.taken[name]; taken != 0 && taken != len(w.fields[name]) {
			complain("tshark has %d times %s, --decode %d times", len(w.fields[name]), name, taken)
		}
	}
	if length := int(w.number("tcp.hdr_len")); bits+8*padding != 8*length {
		complain("the lines have %d bits, the header has %d, of which %d are padding", bits, 8*length, 8*padding)
	}
}

// flagBit reads a flag and says what --decode prints of it.
func flagBit(name string, of packet.Flags) func(*walk) (string, string) {
	return func(w *walk) (string, string) {
		_, meaning, _ := strings.Cut(flagMeanings[of], ": ")
		return fmt.Sprint(w.number(name)), meaning
	}
}

// single reads a field that every header has.
func single(name string) func(*walk) (string, string) {
	return func(w *walk) (string, string) { return one(w.fields, name), "" }
}

// edge reads an edge of SACK, which tshark prints relative.
func edge(name string) func(*walk) (string, string) {
	return func(w *walk) (string, string) {
		n, _ := strconv.ParseUint(w.next(name), 10, 32)
		return fmt.Sprint(uint32(n) + w.iss), ""
	}
}

func repeated(name, note string) func(*walk) (string, string) {
	return func(w *walk) (string, string) { return w.next(name), note }
}

// readers say, for each line of --decode, what value and note it has by tshark.
var readers = map[string]func(*walk) (value, note string){
	"source port":      single("tcp.srcport"),
	"destination port": single("tcp.dstport"),
	"sequence number": func(w *walk) (string, string) {
		return one(w.fields, "tcp.seq_raw"), w.relative("tcp.seq")
	},
	"acknowledgment number": func(w *walk) (string, string) {
		if w.number("tcp.flags.ack") == 0 {
			return one(w.fields, "tcp.ack_raw"), "not valid: ACK is 0"
		}
		return one(w.fields, "tcp.ack_raw"), w.relative("tcp.ack")
	},
	"data offset": func(w *walk) (string, string) {
		n := w.number("tcp.hdr_len")
		return fmt.Sprint(n / 4), fmt.Sprintf("words of 32 bits: the header has %d bytes", n)
	},
	// The lowest of the four is one that tshark knows by name.
	"reserved": func(w *walk) (string, string) { return fmt.Sprint(w.number("tcp.flags") >> 8), "" },
	"CWR":      flagBit("tcp.flags.cwr", packet.CWR),
	"ECE":      flagBit("tcp.flags.ece", packet.ECE),
	"URG":      flagBit("tcp.flags.urg", packet.URG),
	"ACK":      flagBit("tcp.flags.ack", packet.ACK),
	"PSH":      flagBit("tcp.flags.push", packet.PSH),
	"RST":      flagBit("tcp.flags.reset", packet.RST),
	"SYN":      flagBit("tcp.flags.syn", packet.SYN),
	"FIN":      flagBit("tcp.flags.fin", packet.FIN),
	"window": func(w *walk) (string, string) {
		note := one(w.fields, "tcp.window_size") + " bytes"
		if one(w.fields, "tcp.window_size") != one(w.fields, "tcp.window_size_value") {
			note += ", by the scale of the SYN"
		}
		return one(w.fields, "tcp.window_size_value"), note
	},
	"checksum": single("tcp.checksum"),
	"urgent pointer": func(w *walk) (string, string) {
		note := ""
		if w.number("tcp.flags.urg") == 0 {
			note = "not valid: URG is 0"
		}
		return one(w.fields, "tcp.urgent_pointer"), note
	},
	"option kind": func(w *walk) (string, string) {
		kind := w.next("tcp.option_kind")
		w.at += w.length
		w.length = 1
		n, _ := strconv.ParseUint(kind, 10, 8)
		if name, known := optionNames[uint8(n)]; known {
			return kind, name
		}
		return kind, "not known here"
	},
	"option length": func(w *walk) (string, string) {
		length := w.next("tcp.option_len")
		w.length, _ = strconv.Atoi(length)
		return length, ""
	},
	"largest segment": repeated("tcp.options.mss_val", "bytes of data"),
	"shift": func(w *walk) (string, string) {
		return w.next("tcp.options.wscale.shift"), "windows are times " + w.next("tcp.options.wscale.multiplier")
	},
	"timestamp value": repeated("tcp.options.timestamp.tsval", ""),
	"timestamp echo":  repeated("tcp.options.timestamp.tsecr", ""),
	"left edge":       edge("tcp.options.sack_le"),
	"right edge":      edge("tcp.options.sack_re"),
	// What an option holds that is not known here tshark may know: its bytes are
	// compared.
	"data": func(w *walk) (string, string) {
		o := w.options()
		if w.at+w.length > len(o) || w.length < 2 {
			return "none", ""
		}
		return fmt.Sprintf("0x%x", o[w.at+2:w.at+w.length]), ""
	},
	"malformed options": func(w *walk) (string, string) {
		return fmt.Sprintf("0x%x", w.options()[w.at+w.length:]), ""
	},
}

// decodedFields are all that readers ask for.
var decodedFields = []string{
	"tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.seq", "tcp.ack_raw", "tcp.ack", "tcp.hdr_len", "tcp.len", "tcp.flags",
	"tcp.flags.cwr", "tcp.flags.ece", "tcp.flags.urg", "tcp.flags.ack", "tcp.flags.push", "tcp.flags.reset", "tcp.flags.syn",
	"tcp.flags.fin", "tcp.window_size_value", "tcp.window_size", "tcp.checksum", "tcp.urgent_pointer", "tcp.options",
	"tcp.option_kind", "tcp.option_len", "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.wscale.multiplier",
	"tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr", "tcp.options.sack_le", "tcp.options.sack_re",
}

// oddHeaders are connections with headers that are rare.
func oddHeaders(t *testing.T) []recording {
	t.Helper()
	const iss, irs = 0xfffffff0, 1000 // the guest's numbers go round
	g, s := netip.MustParseAddrPort("198.18.0.2:40001"), netip.MustParseAddrPort("203.0.113.5:80")
	nop := []byte{packet.OptionNop}
	// One from the guest, in a connection that both have opened with options.
	later := func(b packet.Build) packet.Build {
		b.Src, b.Dst, b.Flags, b.Seq, b.Ack = g, s, b.Flags|packet.ACK, iss+1&0xffffffff, irs+1
		return b
	}
	within := func(options []byte, b packet.Build) []packet.Build {
		return []packet.Build{
			{Src: g, Dst: s, Flags: packet.SYN, Seq: iss, Window: 65535, Options: options},
			{Src: s, Dst: g, Flags: synAck, Seq: irs, Ack: iss + 1&0xffffffff, Window: 40000, Options: options},
			{Src: s, Dst: g, Flags: ack, Seq: irs + 1, Ack: iss + 1&0xffffffff, Window: 500, Payload: make([]byte, 40)},
			later(b),
		}
	}
	scale := func(n uint8) []byte {
		return packet.Options(packet.MSS(1460), packet.SACKPermitted(), packet.WindowScale(n), nop)
	}
	usual := scale(7) // and the end of the list, twice
	options := func(o ...[]byte) []packet.Build {
		return within(usual, packet.Build{Window: 77, Options: packet.Options(o...)})
	}
	block := func(n uint32) packet.SACKBlock { return packet.SACKBlock{Left: irs + 10*n, Right: irs + 10*n + 5} }
	ts := packet.Timestamps(0xfedcba98, 4000000000)
	rows := []struct {
		name  string
		build []packet.Build
		edit  func(header []byte) // of the last
	}{
		{"every flag", []packet.Build{{Src: g, Dst: s, Flags: 0xff, Seq: 7, Ack: 9, Urgent: 3}}, nil},
		{"no flag", []packet.Build{{Src: g, Dst: s, Seq: 7, Ack: 9, Urgent: 65535, Payload: []byte("x")}}, nil},
		{"flags of ECN", within(usual, packet.Build{Flags: packet.CWR | packet.ECE | packet.PSH}), nil},
		{"urgent data", within(usual, packet.Build{Flags: packet.URG | packet.PSH, Urgent: 5, Payload: []byte("hurry")}), nil},
		{"an urgent pointer that is not valid", within(usual, packet.Build{Urgent: 5}), nil},
		{"reserved bits", within(usual, packet.Build{Window: 9}), func(h []byte) { h[12] |= 0xf }},
		{"one reserved bit", within(usual, packet.Build{Window: 9}), func(h []byte) { h[12] |= 1 }},
		{"a reset with data", within(usual, packet.Build{Flags: packet.RST, Payload: []byte("why")}), nil},
		{"the widest window", within(scale(14), packet.Build{Window: 65535}), nil},
		{"no scale of one end", append(within(usual, packet.Build{Window: 77})[:1], within(packet.MSS(500), packet.Build{Window: 77})[1:]...), nil},
		{"one SACK block", options(nop, nop, packet.SACKBlocks(block(1))), nil},
		{"three SACK blocks and timestamps", options(nop, nop, ts, nop, nop, packet.SACKBlocks(block(3), block(2), block(1))), nil},
		{"four SACK blocks", options(nop, nop, packet.SACKBlocks(block(4), block(3), block(2), block(1))), nil},
		{"timestamps alone", options(ts, nop, nop), nil},
		{"60 bytes of header", options(bytes.Repeat(nop, 40)), nil},
		{"padded by the end of the list", options(ts), nil},
		{"behind the end of the list", options([]byte{packet.OptionEnd, packet.OptionNop, packet.OptionNop, packet.OptionNop}), nil},
		{"an option that nobody knows", options([]byte{77, 6, 1, 2, 3, 4, packet.OptionNop, packet.OptionNop}), nil},
		{"an option without data", options([]byte{78, 2, packet.OptionNop, packet.OptionNop}), nil},
		{"a user timeout", options([]byte{28, 4, 0x80, 30}), nil},
		{"a signature", options(append([]byte{19, 18}, bytes.Repeat([]byte{0xab}, 16)...), nop, nop), nil},
		{"a cookie of fast open", options([]byte{34, 10, 1, 2, 3, 4, 5, 6, 7, 8, packet.OptionNop, packet.OptionNop}), nil},
		{"options that break off", options(nop, nop, nop, []byte{9}), nil},
		{"an option longer than the header", options([]byte{packet.OptionNop, packet.OptionNop, 77, 40}), nil},
		{"an option of length 1", options([]byte{77, 1, 5, 5}), nil},
		{"MSS of another length", options([]byte{packet.OptionMSS, 3, 5, packet.OptionNop}), nil},
	}
	var made []recording
	for _, row := range rows {
		r := recording{name: row.name}
		for i, b := range row.build {
			p := b.Bytes()
			if i == len(row.build)-1 && row.edit != nil {
				row.edit(p[20:])
			}
			r.events = append(r.events, sim.Event{Time: time.Unix(int64(i), 0), Packet: p, FromGuest: b.Src == g})
		}
		made = append(made, r)
	}
	return made
}
