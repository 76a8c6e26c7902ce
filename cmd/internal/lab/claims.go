package lab

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcpbox/cmd/internal/view"
)

// Claim is what people learn about TCP's states and their settings, and what the
// labs show of it. docs/tcp-states.md is made of the claims.
type Claim struct {
	Section string // of the page
	Claim   string // as it is said
	Truth   Truth

	// Says is what is so. {1} stands for the first figure of Shown, {1s} for one
	// that is in milliseconds, written in seconds; {1w} is a word, from "no" on, and
	// {1x} "never", "once", "twice".
	Says string

	Shown []Shown
}

// Truth is the verdict on a claim.
type Truth string

// The verdicts on claims.
const (
	True     Truth = "true"
	False    Truth = "false"
	HalfTrue Truth = "half true"
)

// Shown is a figure that a row of a lab expects, and so measures whenever it runs.
// With the lab that is called decoded it is how many bits a field of the header has.
type Shown struct {
	Lab, Row, Figure string

	// Is is the figure. With Most it is what it is at least, and Most at most.
	Is, Most int
}

// claimSections are the sections of the page, in order.
var claimSections = []string{sectionOpening, sectionClosing, sectionTimeWait, sectionStuck, sectionServer, sectionHeader}

const (
	sectionOpening  = "Opening a connection"
	sectionClosing  = "Closing it"
	sectionTimeWait = "TIME-WAIT"
	sectionStuck    = "States that stay"
	sectionServer   = "Servers under load"
	sectionHeader   = "Numbers and headers"
)

// claims are those of the page, in the order of its sections.
var claims = slices.Concat(claimsOpening, claimsClosing, claimsTimeWait, claimsStuck, claimsServer, claimsHeader)

// decoded is the name that stands for a header, as "tcpbox ladder --decode" shows it.
const decoded = "tcpbox ladder --decode"

// check says what is wrong with a figure: whether the lab expects what is claimed.
func (s Shown) check() error {
	if s.Lab == decoded {
		if bits := view.HeaderBits()[s.Figure]; bits != s.Is || s.Most != 0 {
			return fmt.Errorf("the field %q has %d bits, not %d", s.Figure, bits, s.Is)
		}
		return nil
	}
	l, ok := Find(s.Lab)
	if !ok {
		return fmt.Errorf("there is no lab %q", s.Lab)
	}
	i := slices.IndexFunc(l.Variants, func(v Variant) bool { return v.Name == s.Row })
	if i < 0 {
		return fmt.Errorf("the lab %s has no row %q", s.Lab, s.Row)
	}
	v := &l.Variants[i]
	if r, ok := v.within()[s.Figure]; ok {
		if r != (Range{s.Is, s.Most}) {
			return fmt.Errorf("%s, row %s: %s is expected to be %v, not %d..%d", s.Lab, s.Row, s.Figure, r, s.Is, s.Most)
		}
		return nil
	}
	n, ok := v.expected()[s.Figure]
	if !ok || n != s.Is || s.Most != 0 {
		return fmt.Errorf("%s, row %s: %s is expected to be %d (%v), not %d", s.Lab, s.Row, s.Figure, n, ok, s.Is)
	}
	return nil
}

// text writes the figure as it is measured.
func (s Shown) text() string {
	switch s.Most {
	case 0:
		return strconv.Itoa(s.Is)
	case most:
		return fmt.Sprintf("%d or more", s.Is)
	}
	return fmt.Sprintf("%d to %d", s.Is, s.Most)
}

// seconds writes one that is in milliseconds.
func (s Shown) seconds() string {
	if s.Most == 0 && s.Is < 1000 {
		return fmt.Sprintf("%d ms", s.Is)
	}
	one := func(ms int) string {
		return strconv.FormatFloat((time.Duration(ms) * time.Millisecond).Seconds(), 'f', -1, 64)
	}
	if s.Most != 0 {
		return one(s.Is) + " to " + one(s.Most) + " s"
	}
	return one(s.Is) + " s"
}

// word writes a figure that has a word by that word.
func (s Shown) word(words ...string) string {
	if s.Most == 0 && s.Is < len(words) {
		return words[s.Is]
	}
	return s.text()
}

var placeholder = regexp.MustCompile(`\{(\d+)([swx]?)\}`)

// text is Says with the figures in it.
func (c *Claim) text() (string, error) {
	var err error
	text := placeholder.ReplaceAllStringFunc(c.Says, func(word string) string {
		m := placeholder.FindStringSubmatch(word)
		n, _ := strconv.Atoi(m[1])
		switch {
		case n < 1 || n > len(c.Shown):
			err = fmt.Errorf("%q: there is no figure %s", c.Claim, word)
			return word
		case m[2] == "s":
			return c.Shown[n-1].seconds()
		case m[2] == "w":
			return c.Shown[n-1].word("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
		case m[2] == "x":
			return c.Shown[n-1].word("never", "once", "twice")
		}
		return c.Shown[n-1].text()
	})
	return text, err
}

// claimsPage is docs/tcp-states.md.
func claimsPage() (string, error) {
	var b strings.Builder
	count := map[Truth]int{}
	for _, c := range claims {
		count[c.Truth]++
	}
	fmt.Fprintf(&b, `# What is said about TCP's states, and what is so

Here are %d things that people learn about the states of TCP and the settings around
them: %d are true, %d are false, %d are half true. Each is bound to a lab that shows it: the
figure in the text is the one that the lab measures, and a test fails where they differ.
See for yourself:

`+"```sh\ntcpbox lab run NAME\n```"+`

Labs in virtual time are marked *: they run on two hosts of the stack, and show the
standard as it follows it. The others measure this machine's kernel. The page is written by
a test (`+"`go test ./cmd/internal/lab -run Claims -update`"+`), from cmd/internal/lab/claims*.go.
`, len(claims), count[True], count[False], count[HalfTrue])
	for _, section := range claimSections {
		fmt.Fprintf(&b, "\n## %s\n", section)
		for i := range claims {
			c := &claims[i]
			if c.Section != section {
				continue
			}
			text, err := c.text()
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "\n### “%s”\n\n%s", c.Claim, wrap("**"+strings.ToUpper(string(c.Truth[0]))+string(c.Truth[1:])+".** "+text, "", 90))
			fmt.Fprintf(&b, "\n| shown by | row | figure | |\n|---|---|---|---|\n")
			for _, s := range c.Shown {
				by := "`" + s.Lab + "`"
				if l, ok := Find(s.Lab); ok {
					by = fmt.Sprintf("[%s](labs/%s.md)", l.Name, l.Name)
					if l.onStack() {
						by += " *"
					}
				}
				fmt.Fprintf(&b, "| %s | %s | `%s` | %s |\n", by, s.Row, s.Figure, s.text())
			}
		}
	}
	return b.String(), nil
}
