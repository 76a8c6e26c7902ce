package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// WriteList lists labs, a line each.
func WriteList(w io.Writer, labs []Lab) error {
	width := 0
	for i := range labs {
		width = max(width, len(labs[i].Name))
	}
	for i := range labs {
		title := labs[i].Title
		if labs[i].onStack() {
			title += " [virtual time]"
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, labs[i].Name, title); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes the lab as data.
func (l *Lab) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(l)
}

// Show tells the whole lab: the question, the steps, what to expect and why,
// what people believe, and how to see it in production.
func (l *Lab) Show(w io.Writer, style Style) error {
	width := min(style.width(), 100) - 2
	var b strings.Builder
	section := func(head string) { fmt.Fprintf(&b, "\n%s\n", head) }

	fmt.Fprintf(&b, "%s: %s\n", l.Name, l.Title)
	section("the question")
	b.WriteString(wrap(l.Question, "  ", width))

	section("what happens")
	for i, p := range l.Story {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(wrap(p, "  ", width))
	}
	section("the set-up of every row")
	b.WriteString(wrap(l.Setup, "  ", width))
	if l.onHost() {
		b.WriteString(wrap("Each row has a host of its own: a network namespace that stands for the machine's, which is let alone.", "  ", width))
	}
	if l.onStack() {
		b.WriteString(wrap("It runs in virtual time, on two hosts of the stack that are joined in memory: what it shows is the "+
			"standard, as the stack follows it, and not a kernel.", "  ", width))
	}
	if len(l.Peers)+len(l.Settings)+len(l.Faults) > 0 {
		b.WriteByte('\n')
	}
	for _, p := range l.Peers {
		fmt.Fprintf(&b, "  --peer %s\n", p)
	}
	for _, s := range l.Settings {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	for _, f := range l.Faults {
		fmt.Fprintf(&b, "  --fault '%s'\n", f)
	}
	for _, g := range l.groups() {
		first := true
		for i := range l.Variants {
			if v := &l.Variants[i]; v.Group == g.group {
				if first {
					section(g.head)
				} else {
					b.WriteByte('\n')
				}
				first = false
				v.show(&b, width)
			}
		}
	}
	if len(l.Production) > 0 {
		section("how to see it in production")
	}
	for i, look := range l.Production {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  %s\n%s", look.Command, wrap(look.Shows, "      ", width))
	}
	if len(l.Sources) > 0 {
		section("where it is written down")
	}
	for _, s := range l.Sources {
		b.WriteString(wrap(s.Where+": "+s.What, "  ", width))
	}
	fmt.Fprintf(&b, "\nto run it: tcpbox lab run %s\n", l.Name)
	_, err := io.WriteString(w, b.String())
	return err
}

// Explain tells why each row is as it is.
func (l *Lab) Explain(w io.Writer, style Style) error {
	width := min(style.width(), 100) - 2
	var b strings.Builder
	for _, g := range l.groups() {
		for i := range l.Variants {
			v := &l.Variants[i]
			if v.Group != g.group {
				continue
			}
			fmt.Fprintf(&b, "\n%s [%s]\n", v.Title, v.Name)
			if v.Belief != "" {
				b.WriteString(wrap("believed: "+v.Belief, "  ", width))
			}
			b.WriteString(wrap(v.Why, "  ", width))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// show writes a row: why it is as it is, what is set, and each step with what
// is expected.
func (v *Variant) show(b *strings.Builder, width int) {
	fmt.Fprintf(b, "  %s [%s]\n", v.Title, v.Name)
	if v.Belief != "" {
		b.WriteString(wrap("believed: "+v.Belief, "    ", width))
	}
	b.WriteString(wrap(v.Why, "    ", width))
	name := len("then")
	for i := range v.Steps {
		name = max(name, len(v.Steps[i].Name))
	}
	line := func(head, text string) { fmt.Fprintf(b, "    %-*s  %s\n", name, head, text) }
	for _, s := range v.Settings {
		line("set", s.flag())
	}
	for _, f := range v.Faults {
		line("set", fmt.Sprintf("--fault '%s'", f))
	}
	for i := range v.Steps {
		s := &v.Steps[i]
		if s.Sim != nil {
			for i, text := range s.Sim.lines() {
				head := ""
				if i == 0 {
					head = s.Name
				}
				line(head, text)
			}
			continue
		}
		line(s.Name, s.text()+s.expectText())
	}
	if after := v.afterText(); after != "" {
		indent := strings.Repeat(" ", 4+name+2)
		line("then", strings.TrimSpace(wrap(after, indent, width)))
	}
}

// afterText writes what is expected when all steps are done.
func (v *Variant) afterText() string {
	var after []string
	for _, n := range slices.Sorted(maps.Keys(v.After)) {
		after = append(after, fmt.Sprintf("%s %d", n, v.After[n]))
	}
	for _, n := range slices.Sorted(maps.Keys(v.Within)) {
		after = append(after, fmt.Sprintf("%s %s", n, v.Within[n]))
	}
	return strings.Join(after, ", ")
}

// flag writes a setting as it would be given to tcpbox run, or to sysctl.
func (s Setting) flag() string {
	if _, _, ok := s.Sysctl(); ok {
		return string(s)
	}
	return "--tcp " + string(s)
}

// text says what a step does.
func (s *Step) text() string {
	var what string
	switch {
	case s.Connect != nil:
		what = fmt.Sprintf("%d × %s, %s", s.Connect.Times, s.Connect.To, s.Connect.Close.text())
	case s.Fetch != nil:
		what = fmt.Sprintf("%d × GET http://%s/", s.Fetch.Times, s.Fetch.To)
	default:
		what = s.otherText()
	}
	switch {
	case s.When == AfterDelay:
		what += ", delay passed"
	case s.Quick:
		what += ", within delay"
	}
	return what
}

// otherText is text for the steps that are of one end alone.
func (s *Step) otherText() string {
	who := ""
	if s.In != "" {
		who = s.In + ": "
	}
	switch {
	case s.Listen != nil:
		text := "listen on " + s.Listen.At
		if s.Listen.Backlog > 0 {
			text += fmt.Sprintf(" with a backlog of %d", s.Listen.Backlog)
		}
		switch s.Listen.Then {
		case "":
			text += ", accept nothing"
		case ThenClose:
			text += ", accept and close"
		case ThenReadEnd:
			text += ", read to the FIN and close"
		case ThenLeak:
			text += ", read to the FIN and forget to close"
		case ThenHold:
			text += ", accept and do nothing"
		}
		return who + text
	case s.Accept != nil:
		return fmt.Sprintf("%saccept %d on %s", who, s.Accept.Times, s.Accept.At)
	case s.Open != nil:
		text := fmt.Sprintf("%sopen %d × %s", who, s.Open.Times, s.Open.To)
		if s.Open.AtOnce {
			text += " at once"
		}
		if s.Open.Keepalive {
			text += " with SO_KEEPALIVE"
		}
		if s.Open.UserTimeout > 0 {
			text += fmt.Sprintf(" with TCP_USER_TIMEOUT of %v", ms(s.Open.UserTimeout))
		}
		return text
	case s.Act != nil:
		text := fmt.Sprintf("%s%s", who, s.Act.Do)
		if s.Act.Bytes > 0 {
			text += fmt.Sprintf(" %d bytes", s.Act.Bytes)
		}
		return text + ", on what " + s.Act.On + " has opened"
	case s.Wait != nil && s.Wait.For > 0:
		return fmt.Sprintf("wait for %v", ms(s.Wait.For))
	case s.Wait != nil:
		return "wait"
	case s.Command != nil:
		return strings.Join(s.Command.Args, " ")
	case s.Stop != nil:
		return "kill " + s.Stop.Program
	case s.Set != nil:
		var all []string
		if s.Set.NoFaults {
			all = append(all, "no fault")
		}
		for _, f := range s.Set.Faults {
			all = append(all, fmt.Sprintf("--fault '%s'", f))
		}
		for _, set := range s.Set.Settings {
			all = append(all, set.flag())
		}
		return "set " + strings.Join(all, ", ")
	}
	return ""
}

// expectText writes what is expected of a step, behind a colon.
func (s *Step) expectText() string {
	expect := Figures{}
	expect.add(s.Name, s.Expect)
	delete(expect, s.Name+".first-failure") // it goes without saying
	text := expect.of(s.Name)
	if s.Listen != nil || s.Wait != nil || s.Stop != nil || s.Set != nil || s.Sim != nil && s.Expect["ok"] == 0 {
		text = strings.TrimPrefix(strings.TrimPrefix(text, "0 ok"), ", ")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Within)) {
		text += fmt.Sprintf(", %s %s", s.Within[name], name)
	}
	if text = strings.TrimPrefix(text, ", "); text == "" {
		return ""
	}
	return ": " + text
}

func (c Close) text() string {
	switch c {
	case ClientClose, ClientShutdown:
		return "client closes"
	case ServerFirst:
		return "server closes"
	case ClientReset:
		return "client resets"
	}
	return string(c)
}

// wrap breaks text into lines of at most width columns, each behind indent.
func wrap(text, indent string, width int) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
			b.WriteString(indent + word)
			column = len(indent) + n
		case column+1+n > width:
			b.WriteString("\n" + indent + word)
			column = len(indent) + n
		default:
			b.WriteString(" " + word)
			column += 1 + n
		}
	}
	return b.String() + "\n"
}
