package manual

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Page is a manual page in the making: one for the program and all of its
// commands.
type Page struct {
	Version  string
	Date     string    // of the version, as 2006-01-02, or empty
	Tagline  string    // what the program is, in a few words
	Main     Text      // the program's own help
	Commands []Command // in the order of the page
}

// Command is a command and its help.
type Command struct {
	Name string // without "tcpbox"
	Text Text
}

// WriteRoff writes the page in the language of man(7).
func (p Page) WriteRoff(w io.Writer) error {
	r := &roff{}
	r.macro(".TH TCPBOX 1 %q %q %q", p.Date, "tcpbox "+p.Version, "User Commands")
	r.macro(".nr HY 0") // what is to be typed is not hyphenated
	r.macro(".ad l")
	r.section("NAME")
	r.text("tcpbox - " + p.Tagline)
	r.section("SYNOPSIS")
	r.literal(p.Main.Usage)
	r.section("DESCRIPTION")
	r.paragraphs(p.Main.Summary)
	for _, b := range p.Main.Blocks {
		if b.Examples == nil {
			if b.Heading != "" {
				r.section(strings.ToUpper(b.Heading))
			}
			r.body(b)
		}
	}
	for _, c := range p.Commands {
		r.section("tcpbox " + c.Name)
		r.literal(c.Text.Usage)
		r.paragraphs(c.Text.Summary)
		for _, b := range c.Text.Blocks {
			if b.Heading != "" {
				r.heading(".SS", sentence(b.Heading))
			}
			r.body(b)
		}
	}
	for _, b := range p.Main.Blocks {
		if b.Examples != nil {
			r.section("EXAMPLES")
			r.body(b)
		}
	}
	_, err := io.WriteString(w, r.b.String())
	return err
}

// roff collects a page. Only macro writes lines that begin with a dot.
type roff struct {
	b     strings.Builder
	begun bool // there is text below the last heading
}

func (r *roff) macro(format string, args ...any) { fmt.Fprintf(&r.b, format+"\n", args...) }

func (r *roff) section(title string) { r.heading(".SH", title) }

func (r *roff) heading(macro, title string) {
	r.macro("%s %s", macro, quoted(title))
	r.begun = false
}

func (r *roff) text(s string) {
	r.b.WriteString(escape(s) + "\n")
	r.begun = true
}

// paragraph parts what follows from what is above it.
func (r *roff) paragraph() {
	if r.begun {
		r.macro(".PP")
	}
}

func (r *roff) paragraphs(all []string) {
	for _, s := range all {
		r.paragraph()
		r.text(sentence(s))
	}
}

func (r *roff) literal(lines []string) {
	r.paragraph()
	r.macro(".EX")
	for _, l := range lines {
		r.text(l)
	}
	r.macro(".EE")
}

func (r *roff) body(b Block) {
	switch {
	case b.Examples != nil:
		r.literal(b.Examples)
	case b.Table != nil:
		for _, e := range b.Table {
			r.entry(e)
		}
	default:
		r.paragraphs([]string{b.Paragraph})
	}
}

func (r *roff) entry(e Entry) {
	r.macro(".TP")
	r.b.WriteString(term(e.Term) + "\n")
	if len(e.Body) == 0 {
		r.b.WriteString("\\&\n")
	}
	for _, c := range e.Body {
		if c.Lines == nil {
			r.text(c.Text)
			continue
		}
		r.macro(".RS")
		r.macro(".EX")
		for _, l := range c.Lines {
			r.text(l)
		}
		r.macro(".EE")
		r.macro(".RE")
	}
}

// term sets what is typed as it stands in bold, and what stands for something
// else in italics.
func term(s string) string {
	var words []string
	for word := range strings.FieldsSeq(s) {
		font := "I"
		if strings.HasPrefix(word, "-") || word == strings.ToLower(word) {
			font = "B"
		}
		words = append(words, `\f`+font+strings.TrimPrefix(escape(word), `\&`)+`\fR`)
	}
	return strings.Join(words, " ")
}

// sentence begins with a capital and ends with a full stop, if it is long
// enough to be a sentence.
func sentence(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	if !strings.HasPrefix(s, "tcpbox ") {
		s = string(unicode.ToUpper(first)) + s[size:]
	}
	if strings.Count(s, " ") > 4 && !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

func quoted(s string) string { return `"` + escape(s) + `"` }

// special are the characters that roff would read or print as something else
// (groff_char(7)).
var special = map[rune]string{
	'\\': `\e`, '-': `\-`, '\'': `\(aq`, '`': `\(ga`, '^': `\(ha`, '~': `\(ti`, '"': `\(dq`,
}

// escape makes a line that roff prints as it stands. What cannot be printed is
// left out.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch esc, ok := special[r]; {
		case ok:
			b.WriteString(esc)
		case r == utf8.RuneError || !unicode.IsPrint(r):
		case r > unicode.MaxASCII:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	if line := b.String(); line != "" && strings.ContainsRune(". ", rune(line[0])) {
		return `\&` + line // else it would be a request, or indented
	}
	return b.String()
}
