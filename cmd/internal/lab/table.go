package lab

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"tcpbox/cmd/internal/view"
)

// Style is how a report or a lab is printed.
type Style struct {
	// Width is how many columns there are. Zero means DefaultWidth. Wider
	// tables have a column of notes; narrower than DefaultWidth is taken as
	// that.
	Width int

	// Color marks what is not as expected.
	Color bool
}

// DefaultWidth is that of a terminal, in columns.
const DefaultWidth = 80

// noteWidth is the longest Note, titleWidth the longest Title, in characters.
const (
	titleWidth = 27
	noteWidth  = 34
)

func (s Style) width() int { return max(s.Width, DefaultWidth) }

// bad marks text that tells of something unexpected.
func (s Style) bad(text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[1;31m" + text + "\x1b[0m"
}

// dim sets text back.
func (s Style) dim(text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[2m" + text + "\x1b[0m"
}

// WriteTable writes the report for people: the table, whatever is not as
// expected, what it teaches, and the verdict.
func (r *Report) WriteTable(w io.Writer, style Style) error {
	var b strings.Builder
	t := table{report: r, style: style}
	fmt.Fprintf(&b, "%s: %s\n\n", r.Lab.Name, r.Lab.Title)
	b.WriteString(wrap(r.Lab.Setup, "", min(style.width(), DefaultWidth)-2))
	b.WriteByte('\n')
	t.write(&b)
	b.WriteByte('\n')
	if r.Lab.Draw == DrawStates {
		b.Write(view.StateText(nil, r.Rows[0].StateCounts()))
		b.WriteByte('\n')
	}
	r.writeExceptions(&b, style)
	if r.Verdict() == Pass {
		for _, m := range r.Lab.Moral {
			b.WriteString(wrap(m, "", min(style.width(), DefaultWidth)-2))
		}
	}
	r.writeVerdict(&b, style)
	_, err := io.WriteString(w, b.String())
	return err
}

// table lays out the rows of a report: the title, the columns twice, expected
// and measured, and the verdict.
type table struct {
	report *Report
	style  Style
	widths []int // of the columns
}

func (t *table) write(b *strings.Builder) {
	columns := t.report.Lab.Columns
	for _, c := range columns {
		width := len(c.Head)
		for i := range t.report.Rows {
			row := &t.report.Rows[i]
			width = max(width, len(row.expectedCell(c)), len(cell(row.Measured, c)))
		}
		t.widths = append(t.widths, width)
	}
	var heads []string
	group := len(columns) - 1
	for i, c := range columns {
		heads = append(heads, c.Head)
		group += t.widths[i]
	}
	notes := t.style.width() >= t.base()+2+noteWidth

	fmt.Fprintf(b, "%-*s  %-*s   %s\n", titleWidth+2, "", group, "expected", "measured")
	t.line(b, "", heads, heads, "", "")
	for _, g := range t.report.Lab.groups() {
		first := true
		for i := range t.report.Rows {
			row := &t.report.Rows[i]
			if row.Variant.Group != g.group {
				continue
			}
			if first {
				fmt.Fprintln(b, g.head)
				first = false
			}
			note := ""
			if notes {
				note = row.Variant.Note
			}
			t.row(b, row, note)
		}
	}
}

// base is the width without notes.
func (t *table) base() int {
	n := titleWidth + 2 + 2 + 3 + 2 + len("NOT")
	for _, w := range t.widths {
		n += 2 * (w + 1)
	}
	return n - 2
}

func (t *table) row(b *strings.Builder, row *Row, note string) {
	var expected, measured []string
	for _, c := range t.report.Lab.Columns {
		expected = append(expected, row.expectedCell(c))
		m := cell(row.Measured, c)
		if row.Verdict() == Skip {
			m = "-"
		}
		measured = append(measured, m)
	}
	t.line(b, "  "+row.Variant.Title, expected, measured, t.verdict(row), note)
}

func (t *table) line(b *strings.Builder, title string, expected, measured []string, verdict, note string) {
	line := fmt.Sprintf("%-*s  %s   %s", titleWidth+2, title, t.cells(expected), t.cells(measured))
	switch verdict {
	case "":
	case "ok":
		line += "  " + fmt.Sprintf("%-3s", verdict)
	default:
		line += "  " + t.style.bad(fmt.Sprintf("%-3s", verdict))
	}
	if note != "" {
		line += "  " + t.style.dim(note)
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

func (t *table) cells(texts []string) string {
	var b strings.Builder
	for i, text := range texts {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%*s", t.widths[i], text)
	}
	return b.String()
}

func (t *table) verdict(row *Row) string {
	switch row.Verdict() {
	case Pass:
		return "ok"
	case Fail:
		return "NOT"
	}
	return "-"
}

// cell writes a figure; one that is not expected or not known is a dot.
func cell(f Figures, c Column) string {
	n, ok := f[c.Figure]
	if !ok {
		return "."
	}
	return strconv.Itoa(n)
}

// expectedCell writes what is expected of a figure.
func (r *Row) expectedCell(c Column) string {
	if _, ok := r.Within[c.Figure]; ok {
		return r.expectedText(c.Figure)
	}
	return cell(r.Expected, c)
}

// writeExceptions tells of each row that was skipped or is not as expected.
func (r *Report) writeExceptions(b *strings.Builder, style Style) {
	for i := range r.Rows {
		row := &r.Rows[i]
		var lines []string
		switch row.Verdict() {
		case Pass:
			continue
		case Skip:
			fmt.Fprintf(b, "skipped: %s\n", row.Variant.Title)
			lines = []string{row.Skipped}
		default:
			fmt.Fprintf(b, "%s: %s\n", style.bad("not as expected"), row.Variant.Title)
			lines = row.Problems()
		}
		for _, line := range lines {
			fmt.Fprintf(b, "  %s\n", line)
		}
		b.WriteByte('\n')
	}
}

// writeVerdict writes the last line.
func (r *Report) writeVerdict(b *strings.Builder, style Style) {
	n := r.count()
	verdict, rows := "", ""
	switch r.Verdict() {
	case Pass:
		verdict, rows = "as expected", fmt.Sprintf("%d rows", n[Pass])
	case Fail:
		verdict, rows = style.bad("NOT as expected"), fmt.Sprintf("%d of %d rows", n[Fail], n[Fail]+n[Pass])
	default:
		verdict, rows = "nothing could be measured", "0 rows"
	}
	if n[Skip] > 0 {
		rows += fmt.Sprintf(", %d skipped", n[Skip])
	}
	where := fmt.Sprintf("Linux %s, uid %d, %v", r.Kernel, r.UID, r.Took.Round(100*time.Millisecond))
	if r.Lab.onStack() {
		where = fmt.Sprintf("in virtual time, %v of real time", r.Took.Round(10*time.Millisecond))
	}
	fmt.Fprintf(b, "verdict: %s (%s; %s)\n", verdict, rows, where)
}
