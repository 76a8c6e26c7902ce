package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcpbox/policy/spell"
	"tcpbox/stack/tcpstate"
)

const (
	longestFault  = 1024      // bytes of a rule
	longestWord   = 32        // bytes of a word that is looked up
	longestHold   = time.Hour // of delay, jitter, hold and queue
	longestSpan   = 100 * 24 * 365 * time.Hour
	slowestRate   = 1000 // bits per second
	fastestRate   = 100 * 1000 * 1000 * 1000
	smallestMTU   = 68    // RFC 791, section 3.2
	largestMTU    = 65535 // tun.MaxPacket
	mostReordered = 1000
	smallestShare = 0.000001 // percent
)

// The hints of a rule's parts.
const (
	faultHint     = "a fault is an action and what it is done to: loss 5%, drop first ack when stack=FIN-WAIT-1; see \"tcpbox help fault\""
	spanHint      = "a duration is a number with a unit: 250us, 100ms, 3s, 5m"
	percentHint   = "a share is a number from 0.000001 to 100 with a percent sign: 5%, 0.1%"
	rateHint      = "a rate is a number and bit, kbit, mbit or gbit (per second): rate 10mbit"
	countHint     = "a number from 1: first 2, nth 3, every 10"
	conditionHint = "conditions are guest=STATE, stack=STATE, STATE (of either end), age>30s, idle>350s"
	optionHint    = "the options are mss, wscale, sack-permitted, sack and ts"
)

// ParseFault parses one rule of what goes wrong, such as "loss 5%" or "drop first
// ack when stack=FIN-WAIT-1". Behind the action its words may stand in any order.
// The error is a *ParseError.
func ParseFault(text string) (Fault, error) {
	p := faultParser{text: text}
	if len(text) > longestFault {
		return Fault{}, fault(text[:longestWord]+"...", 0, faultHint, "the rule is longer than %d bytes", longestFault)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return (r < ' ' || r > '~') && r != '\t' && r != '±' }); i >= 0 {
		return Fault{}, fault(text, i, faultHint, "no rule has such a character")
	}
	p.split()
	if err := p.rule(); err != nil {
		return Fault{}, err
	}
	return p.f, nil
}

// faultWord is a word of a rule and where it begins.
type faultWord struct {
	text string // in small letters
	at   int
}

type faultParser struct {
	text  string
	words []faultWord
	next  int
	f     Fault

	when      bool // conditions may follow
	condition bool // one has
	said      map[string]bool
}

// split cuts the text at blanks, and in front of a ± that is glued to what stands
// before it.
func (p *faultParser) split() {
	begin := -1
	end := func(at int) {
		if begin >= 0 {
			p.words = append(p.words, faultWord{strings.ToLower(p.text[begin:at]), begin})
		}
		begin = -1
	}
	for i, r := range p.text {
		switch {
		case r == ' ' || r == '\t':
			end(i)
		case r == '±':
			end(i)
			begin = i
		case begin < 0:
			begin = i
		}
	}
	end(len(p.text))
}

// fail is an error about a word.
func (p *faultParser) fail(w faultWord, hint, format string, args ...any) error {
	return fault(p.text, w.at, hint, format, args...)
}

// end is where the rule ends, for what is missing there.
func (p *faultParser) end() faultWord { return faultWord{"", len(p.text)} }

// once notes that something is said, and is an error if it was before.
func (p *faultParser) once(w faultWord, what string) error {
	if p.said == nil {
		p.said = map[string]bool{}
	}
	if p.said[what] {
		return p.fail(w, "leave one of them out, or write two rules", "%s is said twice", what)
	}
	p.said[what] = true
	return nil
}

func (p *faultParser) rule() error {
	if len(p.words) == 0 {
		return fault(p.text, 0, faultHint, "the rule is empty")
	}
	w := p.words[0]
	i := slices.Index(faultActions[:], w.text)
	if i <= 0 {
		hint := "the actions are " + strings.Join(faultActions[1:], ", ")
		if near := nearFault(w.text, faultActions[1:]); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return p.fail(w, hint, "%s is not an action", strconv.Quote(w.text))
	}
	p.f.Do, p.next = FaultAction(i), 1
	for p.next < len(p.words) {
		w := p.words[p.next]
		p.next++
		if err := p.word(w); err != nil {
			return err
		}
	}
	if p.when && !p.condition {
		return p.fail(p.end(), conditionHint, "when has no condition")
	}
	return p.complete()
}

// word takes one word, and those that belong to it.
func (p *faultParser) word(w faultWord) error {
	if taken, err := p.ofAction(w); taken {
		return err
	}
	if strings.HasSuffix(w.text, "%") {
		return p.percent(w)
	}
	if i := slices.Index(pickNames[1:], w.text); i >= 0 {
		return p.pick(w, FaultPick(i+1))
	}
	if kind, ok := kindOf(w.text); ok {
		p.f.Kind = kind
		return p.once(w, "the kind of packet")
	}
	switch w.text {
	case "out", "outbound":
		p.f.Direction = tcpstate.Outbound
		return p.once(w, "the direction")
	case "in", "inbound":
		p.f.Direction = tcpstate.Inbound
		return p.once(w, "the direction")
	case "when":
		p.when = true
		return p.once(w, "when")
	}
	if key, value, ok := strings.Cut(w.text, "="); ok {
		return p.keyed(w, key, faultWord{value, w.at + len(key) + 1})
	}
	if i := strings.IndexAny(w.text, "<>"); i >= 0 {
		return p.span(w, w.text[:i], w.text[i], faultWord{w.text[i+1:], w.at + i + 1})
	}
	if p.when {
		set, err := p.states(w)
		p.f.Either = set
		if err == nil {
			err = p.once(w, "the state of either end")
		}
		return err
	}
	return p.unknown(w)
}

func kindOf(word string) (SegmentKind, bool) {
	switch word {
	case "any":
		return 0, true
	case "syn-ack":
		return KindSYNACK, true
	}
	i := slices.Index(kindNames[1:], word)
	return SegmentKind(i + 1), i >= 0
}

// ofAction takes the words that mean something to one action only.
func (p *faultParser) ofAction(w faultWord) (taken bool, err error) {
	do := p.f.Do
	switch {
	case strings.HasPrefix(w.text, "±"), strings.HasPrefix(w.text, "+-"), strings.HasPrefix(w.text, "+/-"):
		return true, p.jitter(w)
	case do == FaultMTU && p.f.MTU == 0 && isNumber(w.text):
		n, err := strconv.Atoi(w.text)
		if err != nil || n < smallestMTU || n > largestMTU {
			return true, p.fail(w, fmt.Sprintf("an MTU is a number of bytes from %d to %d", smallestMTU, largestMTU), "%q is not an MTU", w.text)
		}
		p.f.MTU = n
		return true, nil
	case do == FaultRate && p.f.Rate == 0 && w.text[0] >= '0' && w.text[0] <= '9' && !strings.HasSuffix(w.text, "%"):
		return true, p.rate(w)
	case do == FaultRate && w.text == "queue":
		d, err := p.durationBehind(w)
		p.f.Queue = d
		return true, firstOf(err, p.once(w, "queue"))
	case do == FaultReorder && w.text == "by":
		n, err := p.numberBehind(w, mostReordered)
		p.f.By = int(n)
		return true, firstOf(err, p.once(w, "by"))
	case do == FaultDelay && w.text == "ordered":
		p.f.InOrder = true
		return true, nil
	case do == FaultReplay && w.text == "fit":
		p.f.Fit = true
		return true, nil
	case do == FaultRST && (w.text == "guest" || w.text == "stack" || w.text == "both"):
		switch w.text {
		case "guest":
			p.f.Toward = tcpstate.Guest
		case "stack":
			p.f.Toward = tcpstate.Stack
		}
		return true, p.once(w, "whom to reset")
	case do == FaultFail && (w.text == "refused" || slices.Contains(failureNames[1:], w.text)):
		p.f.How = FaultFailure(max(0, slices.Index(failureNames[:], w.text)))
		return true, p.once(w, "how to fail")
	case do == FaultFail && (w.text == "connect" || w.text == "connects" || w.text == "connection" || w.text == "connections"):
		return true, nil
	case w.text == "packet" || w.text == "packets" || w.text == "segment" || w.text == "segments":
		return true, nil
	case (do == FaultDelay || do == FaultHold || do == FaultDup) && w.text[0] >= '0' && w.text[0] <= '9' && !strings.HasSuffix(w.text, "%"):
		d, err := p.duration(w, longestHold)
		p.f.Delay = d
		return true, firstOf(err, p.once(w, "the duration"))
	}
	return false, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *faultParser) keyed(w faultWord, key string, value faultWord) error {
	var err error
	switch key {
	case "src":
		p.f.Src, err = p.endOf(value)
	case "dst":
		p.f.Dst, err = p.endOf(value)
	case "option":
		i := slices.Index(optionNames[1:], value.text)
		if i < 0 {
			return p.fail(value, optionHint, "%s is not an option", strconv.Quote(value.text))
		}
		p.f.Option = TCPOption(i + 1)
	case "guest":
		p.condition = true
		p.f.Guest, err = p.states(value)
	case "stack":
		p.condition = true
		p.f.Stack, err = p.states(value)
	default:
		hint := "the keys are src, dst, option, guest and stack"
		if near := nearFault(key, []string{"src", "dst", "option", "guest", "stack"}); near != "" {
			hint = fmt.Sprintf("did you mean %s=?", near)
		}
		return p.fail(w, hint, "%s is not a key", strconv.Quote(key))
	}
	return firstOf(err, p.once(w, key+"="))
}

// endOf parses ADDRESS, CIDR, either with :PORT, or :PORT or PORT alone.
func (p *faultParser) endOf(w faultWord) (FaultEnd, error) {
	var r Rule
	text, port := w.text, 0
	shift := func(err error) error {
		var wrong *ParseError
		if errors.As(err, &wrong) {
			wrong = fault(p.text, w.at+wrong.Column-1, wrong.Hint, "%s", wrong.Message)
			return wrong
		}
		return err
	}
	const endHint = "an end is ADDRESS or CIDR, with :PORT if wanted, or :PORT alone: dst=192.0.2.5:5432, src=10.0.0.0/8, dst=:443"
	switch {
	case text == "" || text[0] == '@':
		return FaultEnd{}, p.fail(w, endHint, "%s is not an end of a connection", strconv.Quote(text))
	case isNumber(text):
	case text[0] == ':' && !strings.HasPrefix(text, "::"):
		port = 1
	default:
		var err error
		if port, err = parseTarget(&r, text, text); err != nil {
			return FaultEnd{}, shift(err)
		}
	}
	if port >= 0 {
		if err := parsePorts(&r, text, text[port:], port); err != nil {
			return FaultEnd{}, shift(err)
		}
	}
	return FaultEnd{r.prefix, r.first, r.last}, nil
}

// states parses states with commas between them.
func (p *faultParser) states(w faultWord) (set tcpstate.Set, err error) {
	at := w.at
	for name := range strings.SplitSeq(w.text, ",") {
		one, err := tcpstate.ParseSet(name)
		if err != nil || one == 0 {
			hint := "the states are those of RFC 9293: ESTABLISHED, FIN-WAIT-1, ..."
			if near := nearFault(name, tcpstate.SetNames()); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return 0, p.fail(faultWord{name, at}, hint, "%s is not a state", strconv.Quote(name))
		}
		set |= one
		at += len(name) + 1
	}
	p.condition = true
	return set, nil
}

func (p *faultParser) span(w faultWord, key string, sign byte, value faultWord) error {
	span := &p.f.Age
	switch key {
	case "age":
	case "idle":
		span = &p.f.Idle
	default:
		return p.fail(w, conditionHint, "%s has no length", strconv.Quote(key))
	}
	p.condition = true
	d, err := p.duration(value, longestSpan)
	if sign == '>' {
		span.Over = d
	} else {
		span.Under = d
	}
	return firstOf(err, p.once(w, key+string(sign)))
}

// words that may stand somewhere in a rule, for who mistypes one.
func faultWords() []string {
	words := []string{"out", "in", "when", "queue", "by", "ordered", "connects", "packets", "any"}
	return slices.Concat(words, pickNames[1:], kindNames[1:], failureNames[1:])
}

func (p *faultParser) unknown(w faultWord) error {
	if _, err := tcpstate.ParseSet(w.text); err == nil {
		return p.fail(w, fmt.Sprintf("write: when %s", strings.ToUpper(w.text)), "a state stands behind when")
	}
	if near := nearFault(w.text, faultWords()); near != "" {
		return p.fail(w, fmt.Sprintf("did you mean %q?", near), "%s means nothing here", strconv.Quote(w.text))
	}
	return p.fail(w, faultHint, "%s means nothing here", strconv.Quote(w.text))
}

func nearFault(word string, words []string) string {
	if len(word) > longestWord {
		return ""
	}
	return spell.Nearest(word, words, min(3, len(word)))
}

// complete checks what only shows when all words have been read.
func (p *faultParser) complete() error {
	f := &p.f
	missing := func(hint, what string) error { return p.fail(p.end(), hint, "%s has no %s", f.Do, what) }
	switch {
	case f.Do == FaultLoss && !p.said["the share"]:
		return missing(percentHint, "share")
	case (f.Do == FaultDelay || f.Do == FaultHold) && f.Delay == 0:
		return missing(spanHint, "duration")
	case f.Jitter > f.Delay:
		return p.fail(p.end(), fmt.Sprintf("the most is ±%s", spanText(f.Delay)), "the jitter of ±%s is more than the delay", spanText(f.Jitter))
	case f.Do == FaultRate && f.Rate == 0:
		return missing(rateHint, "rate")
	case f.Do == FaultMTU && f.MTU == 0:
		return missing("for example: mtu 1400", "number of bytes")
	case f.Do == FaultFail && f.Kind != 0 && f.Kind != KindSYN:
		return p.fail(p.end(), "leave the kind out; fail is about connections that are asked for", "fail is done to a SYN, not to %s", kindNames[f.Kind])
	case (f.Kind == KindUDP || f.Kind == KindICMP) && (f.Option != 0 || f.Conditional() || f.Do == FaultRST || f.Do == FaultReplay):
		return p.fail(p.end(), "leave the kind or that out", "%s has no connection, state or option", kindNames[f.Kind])
	case f.Kind == KindICMP && f.Dst.Last|f.Src.Last != 0:
		return p.fail(p.end(), "leave the port away", "ICMP has no ports")
	}
	for what, span := range map[string]FaultSpan{"age": f.Age, "idle": f.Idle} {
		if span.Under != 0 && span.Under <= span.Over {
			return p.fail(p.end(), "the upper bound is the larger one", "nothing lies between %s>%s and %s<%s", what, spanText(span.Over), what, spanText(span.Under))
		}
	}
	if f.Kind == KindSYN && f.Do == FaultFail {
		f.Kind = 0
	}
	return nil
}
