// Package manual reads the help texts of a command line, which are written by
// hand for a terminal, and makes other things of them: a manual page, and the
// words that a shell completes. So each thing is said in one place.
//
// A help text is plain, in lines of 80 columns, and has this form:
//
//	a summary of one paragraph or more
//
//	usage: tcpbox verb [FLAGS] NAME
//	       tcpbox verb --list
//
//	heading of a table:
//	  TERM      what it means, which may go on
//	            below itself
//
//	examples:
//	  tcpbox verb web
//
// Begin with Parse.
package manual

import (
	"strings"
)

// Text is a help text, taken apart.
type Text struct {
	Summary []string // paragraphs
	Usage   []string // lines, without "usage:"
	Blocks  []Block
}

// Block is what stands between two empty lines: a paragraph, a table or
// examples.
type Block struct {
	Heading   string   // without its colon; empty for a paragraph
	Paragraph string   // on one line
	Table     []Entry  // of a table
	Examples  []string // lines, as they are typed
}

// Entry is a row of a table.
type Entry struct {
	Term string
	Body []Chunk
}

// Chunk is running text, or lines that stand as they are.
type Chunk struct {
	Text  string
	Lines []string
}

// Text is the running text of an entry, on one line.
func (e Entry) Text() string {
	var parts []string
	for _, c := range e.Body {
		if c.Text != "" {
			parts = append(parts, c.Text)
		}
	}
	return strings.Join(parts, " ")
}

// Parse takes a help text apart. Every text has a form: what is not
// understood is a paragraph.
func Parse(text string) Text {
	var t Text
	for _, lines := range groups(text) {
		switch first := lines[0]; {
		case strings.HasPrefix(first, "usage:"):
			lines[0] = strings.TrimPrefix(first, "usage:")
			for _, l := range lines {
				t.Usage = append(t.Usage, strings.TrimSpace(l))
			}
		case indent(first) > 0:
			t.Blocks = append(t.Blocks, Block{Table: table(lines)})
		case len(lines) > 1 && strings.HasSuffix(first, ":") && indent(lines[1]) > 0:
			b := Block{Heading: strings.TrimSuffix(first, ":")}
			if b.Heading == "example" || b.Heading == "examples" {
				for _, l := range lines[1:] {
					b.Examples = append(b.Examples, strings.TrimPrefix(l, "  "))
				}
			} else {
				b.Table = table(lines[1:])
			}
			t.Blocks = append(t.Blocks, b)
		case len(t.Usage) == 0:
			t.Summary = append(t.Summary, join(lines))
		default:
			t.Blocks = append(t.Blocks, Block{Paragraph: join(lines)})
		}
	}
	return t
}

// groups are the lines between empty ones.
func groups(text string) (all [][]string) {
	var group []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		if line != "" {
			group = append(group, line)
			continue
		}
		if len(group) > 0 {
			all = append(all, group)
		}
		group = nil
	}
	if len(group) > 0 {
		all = append(all, group)
	}
	return all
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func join(lines []string) string { return strings.Join(strings.Fields(strings.Join(lines, " ")), " ") }

// table reads rows. A row begins at the left margin of the table; what stands
// further right belongs to the row above, as running text if it is in the
// column of the texts, and as a line of its own if it is right of that.
func table(lines []string) (rows []Entry) {
	margin := indent(lines[0])
	column := 0
	for _, l := range lines {
		margin = min(margin, indent(l))
	}
	for _, l := range lines {
		if in := indent(l); in > margin && (column == 0 || in < column) {
			column = in
		}
	}
	for _, l := range lines {
		if indent(l) == margin || len(rows) == 0 {
			term, text := splitRow(strings.TrimLeft(l, " "), column-margin)
			rows = append(rows, Entry{Term: term})
			if text != "" {
				rows[len(rows)-1].Body = []Chunk{{Text: text}}
			}
			continue
		}
		rows[len(rows)-1].add(l, column)
	}
	return rows
}

// splitRow parts a row at the column of the texts, or else at the first gap.
func splitRow(row string, column int) (term, text string) {
	if column > 0 && column < len(row) && row[column-1] == ' ' && row[column] != ' ' {
		return strings.TrimSpace(row[:column]), strings.TrimSpace(row[column:])
	}
	term, text, _ = strings.Cut(row, "  ")
	return strings.TrimSpace(term), strings.TrimSpace(text)
}

// add appends a line below a row.
func (e *Entry) add(line string, column int) {
	literal := indent(line) > column
	last := len(e.Body) - 1
	switch {
	case literal && last >= 0 && e.Body[last].Lines != nil:
		e.Body[last].Lines = append(e.Body[last].Lines, line[column:])
	case literal:
		e.Body = append(e.Body, Chunk{Lines: []string{line[column:]}})
	case last >= 0 && e.Body[last].Lines == nil:
		e.Body[last].Text += " " + strings.TrimSpace(line)
	default:
		e.Body = append(e.Body, Chunk{Text: strings.TrimSpace(line)})
	}
}
