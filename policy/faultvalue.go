package policy

// The values in a rule: durations, numbers, shares and rates.

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func (p *faultParser) jitter(w faultWord) error {
	if p.f.Do != FaultDelay {
		return p.fail(w, "jitter belongs to delay: delay 100ms ±20ms", "%s has no jitter", p.f.Do)
	}
	rest := w
	for _, sign := range []string{"±", "+-", "+/-"} {
		if after, ok := strings.CutPrefix(w.text, sign); ok {
			rest = faultWord{after, w.at + len(sign)}
		}
	}
	if rest.text == "" && p.next < len(p.words) {
		rest = p.words[p.next]
		p.next++
	}
	d, err := p.duration(rest, longestHold)
	p.f.Jitter = d
	return firstOf(err, p.once(w, "the jitter"))
}

func (p *faultParser) duration(w faultWord, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(w.text)
	switch {
	case err != nil || d < 0:
		return 0, p.fail(w, spanHint, "%s is not a duration", strconv.Quote(w.text))
	case d == 0:
		return 0, p.fail(w, spanHint, "a duration of 0 does nothing")
	case d > most:
		return 0, p.fail(w, "the longest is "+spanText(most), "%s is too long", spanText(d))
	}
	return d, nil
}

func (p *faultParser) durationBehind(w faultWord) (time.Duration, error) {
	if p.next >= len(p.words) {
		return 0, p.fail(p.end(), spanHint, "%s has no duration", w.text)
	}
	p.next++
	return p.duration(p.words[p.next-1], longestHold)
}

func (p *faultParser) numberBehind(w faultWord, most uint64) (uint64, error) {
	if p.next >= len(p.words) {
		return 0, p.fail(p.end(), countHint, "%s has no number", w.text)
	}
	p.next++
	return p.number(p.words[p.next-1], most)
}

func (p *faultParser) number(w faultWord, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(w.text, 10, 64)
	if err != nil || n < 1 || n > most {
		hint := countHint
		if errors.Is(err, strconv.ErrRange) || err == nil && n > most {
			hint = fmt.Sprintf("the largest is %d", most)
		}
		return 0, p.fail(w, hint, "%s is not a number that counts", strconv.Quote(w.text))
	}
	return n, nil
}

// mostCounted bounds what first, nth and every count to.
const mostCounted = 1 << 53

func (p *faultParser) pick(w faultWord, pick FaultPick) error {
	p.f.Pick, p.f.N = pick, 1
	var err error
	if pick != PickFirst || p.next < len(p.words) && isNumber(p.words[p.next].text) {
		p.f.N, err = p.numberBehind(w, mostCounted)
	}
	return firstOf(err, p.once(w, "first, nth or every"))
}

func (p *faultParser) percent(w faultWord) error {
	digits := strings.TrimSuffix(w.text, "%")
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || strings.Trim(digits, "0123456789.") != "" || !(n >= smallestShare && n <= 100) {
		return p.fail(w, percentHint, "%s is not a share", strconv.Quote(w.text))
	}
	if p.f.Percent = n; n == 100 && p.f.Do != FaultLoss {
		p.f.Percent = 0
	}
	return p.once(w, "the share")
}

func (p *faultParser) rate(w faultWord) error {
	digits := strings.TrimRight(w.text, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.ParseFloat(digits, 64)
	for _, u := range rateUnits {
		if err != nil || w.text[len(digits):] != u.name || strings.Trim(digits, "0123456789.") != "" {
			continue
		}
		bits := n * float64(u.bits)
		if !(bits >= slowestRate && bits <= fastestRate) {
			return p.fail(w, "a rate lies between 1kbit and 100gbit", "%q is not a rate of a line", w.text)
		}
		p.f.Rate = int64(bits)
		return nil
	}
	return p.fail(w, rateHint, "%s is not a rate", strconv.Quote(w.text))
}
