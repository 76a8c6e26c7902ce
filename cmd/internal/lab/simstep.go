package lab

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// SimStep is a step of a simulated row, in words. X is an end, guest or stack.
//
//	# TEXT                       a remark
//	X listens PORT               a server is there; it is noted alone
//	X stops listening            on all ports
//	X connects PORT > PORT       a program calls connect, and waits
//	X connect gives RESULT       what became of that; also X accept gives RESULT
//	X accepts                    the connection that the other end asks for
//	X refuses                    it: with an RST
//	X ignores                    it: without an answer
//	X is not asked               for any connection
//	X writes N bytes             or "TEXT"; and where that fails, ", ERRNO"
//	X reads RESULT               RESULT may be "TEXT": all that there is
//	X shuts down                 shutdown(SHUT_WR): FIN, and it still reads
//	X closes                     close: FIN, or RST if there is something unread
//	X resets                     close with SO_LINGER 0: RST
//	X sets KEY=VALUE             a knob of that end
//	X sends FLAGS WHAT, FATE     the oldest segment of X that is under way
//	X sends nothing              no segment of X is under way
//	X is STATE                   of its newest connection
//	X went STATE STATE …         all that X has entered so far, of every connection
//	X forges FLAGS WHAT          a segment of somebody else's in X's name arrives
//	deliver NAME                 a segment that is held arrives, or a kept one once more
//	all arrives                  whatever is under way, and whatever follows
//	wait DURATION                the clock goes on; what is sent stays under way,
//	wait DURATION losing         is lost,
//	wait DURATION flowing        or arrives
//	wait until DURATION          since the row began
//
// RESULT is ok, EOF, nothing (the call still waits, or would), or an errno.
// FLAGS are joined by "+", as in SYN+ACK; PSH does not count. WHAT are
// conditions, each left out where it does not matter: seq=N and ack=N count from
// the first sequence number of the end that they belong to, as len=N they are
// bytes; of a forged segment also from=PORT, and ts=N, which counts from the last
// timestamp that the end has sent. FATE is nothing (it
// arrives), "lost", "twice", "withheld": it is as if the host had not sent it, as
// one does that delays an ACK, "held as NAME", or "kept as NAME": it arrives, and
// a copy stays.
type SimStep string

// The kinds of steps.
type simKind uint8

const (
	simRemark simKind = iota
	simListen
	simUnlisten
	simConnect
	simConnectGives
	simAccept
	simRefuse
	simIgnore
	simNotAsked
	simWrite
	simRead
	simShutdown
	simClose
	simReset
	simSet
	simSends
	simSilent
	simIs
	simWent
	simForge
	simDeliver
	simAll
	simWait
)

// simStep is a SimStep that has been read.
type simStep struct {
	kind simKind
	leg  tcpstate.Leg

	from, to uint16 // ports
	text     string // a remark, or what is written or read
	n        int    // bytes to write, if not text
	result   string // "" : text is what is read
	states   []tcpstate.State
	setting  knob.Setting

	flags packet.Flags
	what  simWhat
	fate  simFate
	name  string // of a segment that is held or kept

	wait  time.Duration
	until bool
	with  string // "losing" or "flowing"
}

// simWhat are conditions on a segment; nil where it does not matter.
type simWhat struct{ seq, ack, length, ts, from *uint32 }

// simFate is what becomes of a segment.
type simFate string

const (
	arrives simFate = ""
	lost    simFate = "lost"
	without simFate = "withheld"
	twice   simFate = "twice"
	held    simFate = "held as"
	kept    simFate = "kept as"
)

const (
	maxSimWait  = 24 * time.Hour
	maxSimWrite = 1 << 20
)

// legOf reads an end.
func legOf(word string) (tcpstate.Leg, bool) {
	switch word {
	case "guest":
		return tcpstate.Guest, true
	case "stack":
		return tcpstate.Stack, true
	}
	return 0, false
}

// parse reads a step.
func (text SimStep) parse() (s simStep, err error) {
	line := strings.TrimSpace(string(text))
	first, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	if leg, ok := legOf(first); ok {
		s.leg = leg
		return s, s.ofEnd(rest)
	}
	switch {
	case strings.HasPrefix(line, "#"):
		s.text = strings.TrimSpace(line[1:])
		return s, nil
	case line == "all arrives":
		s.kind = simAll
		return s, nil
	case first == "deliver" && rest != "" && !strings.ContainsAny(rest, " ,"):
		s.kind, s.name = simDeliver, rest
		return s, nil
	case first == "wait":
		return s, s.parseWait(rest)
	}
	return s, fmt.Errorf("%q is no step: it begins with guest, stack, deliver, wait, all arrives, or #", line)
}

func (s *simStep) parseWait(rest string) (err error) {
	s.kind = simWait
	rest, s.until = strings.CutPrefix(rest, "until ")
	if !s.until {
		for _, with := range []string{"losing", "flowing"} {
			if before, ok := strings.CutSuffix(rest, " "+with); ok {
				rest, s.with = before, with
			}
		}
	}
	s.wait, err = time.ParseDuration(rest)
	if err != nil || s.wait <= 0 || s.wait > maxSimWait {
		return fmt.Errorf("wait %q: it is a duration from 1ns to %v, such as 60s, and what happens meanwhile: losing or flowing", rest, maxSimWait)
	}
	return nil
}

// plain are the steps of an end that say nothing more.
var plain = map[string]simKind{
	"accepts": simAccept, "refuses": simRefuse, "ignores": simIgnore,
	"shuts down": simShutdown, "closes": simClose, "resets": simReset, "sends nothing": simSilent,
	"stops listening": simUnlisten, "is not asked": simNotAsked,
}

// ofEnd reads what an end does.
func (s *simStep) ofEnd(does string) (err error) {
	if kind, ok := plain[does]; ok {
		s.kind = kind
		return nil
	}
	verb, rest, _ := strings.Cut(does, " ")
	rest = strings.TrimSpace(rest)
	switch verb {
	case "listens":
		s.kind = simListen
		s.from, err = parsePort(rest)
	case "connects":
		s.kind = simConnect
		from, to, _ := strings.Cut(rest, ">")
		if s.from, err = parsePort(strings.TrimSpace(from)); err == nil {
			s.to, err = parsePort(strings.TrimSpace(to))
		}
	case "connect", "accept":
		s.kind = simConnectGives
		result, ok := strings.CutPrefix(rest, "gives ")
		if !ok {
			return fmt.Errorf("%q: a %s gives something", does, verb)
		}
		s.result, err = parseResult(result)
	case "writes":
		return s.parseWrite(rest)
	case "reads":
		s.kind = simRead
		if strings.HasPrefix(rest, `"`) {
			s.text, err = strconv.Unquote(rest)
			if err != nil || s.text == "" {
				return fmt.Errorf("%s is no text", rest)
			}
			return nil
		}
		s.result, err = parseResult(rest)
	case "is", "went":
		s.kind = map[string]simKind{"is": simIs, "went": simWent}[verb]
		for _, word := range strings.Fields(rest) {
			state, err := tcpstate.Parse(word)
			if err != nil {
				return err
			}
			s.states = append(s.states, state)
		}
		if len(s.states) == 0 || s.kind == simIs && len(s.states) > 1 {
			return fmt.Errorf("%q: an end is in one state, and went through at least one", does)
		}
	case "sets":
		s.kind = simSet
		s.setting, err = knob.ParseSetting(rest)
		if err == nil && s.setting.Leg != 0 {
			return fmt.Errorf("%q: the end is named already", rest)
		}
	case "sends":
		s.kind = simSends
		return s.parseSegment(rest)
	case "forges":
		s.kind = simForge
		return s.parseSegment(rest)
	default:
		return fmt.Errorf("%q is nothing that an end does, such as: connects, accepts, writes, reads, closes, sends, is", does)
	}
	return err
}

func (s *simStep) parseWrite(rest string) (err error) {
	s.kind = simWrite
	if i := strings.LastIndex(rest, ", E"); i >= 0 && !strings.HasSuffix(rest, `"`) {
		if s.result, err = parseResult(rest[i+2:]); err != nil {
			return err
		}
		rest = rest[:i]
	}
	if strings.HasPrefix(rest, `"`) {
		s.text, err = strconv.Unquote(rest)
		if err != nil || s.text == "" {
			return fmt.Errorf("%s is no text", rest)
		}
		return nil
	}
	n, ok := strings.CutSuffix(rest, " bytes")
	if s.n, err = strconv.Atoi(n); !ok || err != nil || s.n < 1 || s.n > maxSimWrite {
		return fmt.Errorf(`an end writes "TEXT", or from 1 to %d bytes, not %q`, maxSimWrite, rest)
	}
	return nil
}

// parseSegment reads FLAGS WHAT, FATE.
func (s *simStep) parseSegment(rest string) (err error) {
	rest, fate, has := strings.Cut(rest, ",")
	if has {
		if err := s.parseFate(strings.TrimSpace(fate)); err != nil || s.kind == simForge {
			return fmt.Errorf("%q is no fate of a segment: lost, twice, withheld, held as NAME, kept as NAME", strings.TrimSpace(fate))
		}
	}
	words := strings.Fields(rest)
	if len(words) == 0 {
		return fmt.Errorf("a segment has flags, such as SYN+ACK")
	}
	if s.flags, err = flagsOf(words[0]); err != nil {
		return err
	}
	for _, word := range words[1:] {
		if err := s.parseWhat(word); err != nil {
			return err
		}
	}
	return nil
}

func (s *simStep) parseWhat(word string) error {
	name, value, _ := strings.Cut(word, "=")
	fields := map[string]**uint32{"seq": &s.what.seq, "ack": &s.what.ack, "len": &s.what.length}
	if s.kind == simForge {
		fields["ts"], fields["from"] = &s.what.ts, &s.what.from
	}
	field := fields[name]
	n, err := strconv.ParseInt(value, 10, 33)
	if field == nil || *field != nil || err != nil || n < -1<<31 || n >= 1<<32 ||
		(name == "len" && (n < 0 || n > 1400)) || (name == "from" && (n < 1 || n > 65535)) {
		return fmt.Errorf("%q says nothing of a segment: seq=N, ack=N, len=N", word)
	}
	*field = new(uint32(n))
	return nil
}

func (s *simStep) parseFate(fate string) error {
	if f := simFate(fate); f == lost || f == twice || f == without {
		s.fate = f
		return nil
	}
	for _, f := range []simFate{held, kept} {
		if name, ok := strings.CutPrefix(fate, string(f)+" "); ok && name != "" && !strings.ContainsAny(name, " ,") {
			s.fate, s.name = f, name
			return nil
		}
	}
	return fmt.Errorf("no such fate")
}

var flagNames = []struct {
	name string
	flag packet.Flags
}{{"FIN", packet.FIN}, {"SYN", packet.SYN}, {"RST", packet.RST}, {"ACK", packet.ACK}}

// flagsOf reads SYN+ACK.
func flagsOf(text string) (f packet.Flags, err error) {
next:
	for name := range strings.SplitSeq(text, "+") {
		for _, known := range flagNames {
			if name == known.name && !f.Has(known.flag) {
				f |= known.flag
				continue next
			}
		}
		return 0, fmt.Errorf("%q are no flags: FIN, SYN, RST and ACK, joined by +", text)
	}
	return f, nil
}

// flagText writes flags, without PSH, in the order of the header.
func flagText(f packet.Flags) string {
	var names []string
	for _, known := range flagNames {
		if f.Has(known.flag) {
			names = append(names, known.name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "+")
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port", text)
	}
	return uint16(n), nil
}

// parseResult reads what a call comes to.
func parseResult(text string) (string, error) {
	switch {
	case text == "ok", text == "EOF", text == "nothing":
		return text, nil
	case len(text) > 1 && text[0] == 'E' && strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "":
		return text, nil
	}
	return "", fmt.Errorf("%q is no result: ok, EOF, nothing, an errno such as ECONNRESET", text)
}
