package lab

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"tcpbox/cmd/internal/view"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// Page says what a report's page is told beside what is in the report.
type Page struct {
	Version string    // of tcpbox, or empty
	When    time.Time // when the lab was run; zero: it is not said
}

// WriteHTML writes the report as one page of HTML that needs no other file, no
// script and no network. States over time and the ladder are of rows whose Log was
// kept.
func (r *Report) WriteHTML(w io.Writer, p Page) error { return pageTemplate.Execute(w, r.page(p)) }

// page is what the template is filled with.
type page struct {
	Style                 template.CSS
	Name, Title, Question string
	Story, Moral          []string
	Setup, Where          string
	Virtual               bool
	Verdict               pageVerdict
	Columns               []string
	Span                  int // columns of the table
	Groups                []pageGroup
	Exceptions            []pageException
	Charts                []chart
	Diagram               template.HTML // an SVG
	Ladder                template.HTML // an SVG
	NarrowLadder          template.HTML // the same, for a phone
	LadderOf              string
	Production            []Look
	Sources               []Source
	Version, When         string
}

type pageVerdict struct{ Class, Text, Rows string }

type pageGroup struct {
	Head string
	Rows []pageRow
}

type pageRow struct {
	ID, Name, Title, Note, Belief, Why string
	Verdict                            Verdict
	Mark                               string
	Cells                              []pageCell
	Steps                              []pageStep
}

type pageCell struct {
	Head, Measured, Expected string
	Wrong, HasBar            bool
	Percent                  string // of the longest bar of its column
}

type pageStep struct{ Head, Text string }

type pageException struct {
	Title, What string
	Lines       []string
}

func (r *Report) page(p Page) *page {
	l := r.Lab
	out := &page{
		Style: template.CSS(pageCSS + view.StyleWithin(".ladder")), //nolint:gosec // both are ours
		Name:  l.Name, Title: l.Title, Question: l.Question, Story: l.Story, Setup: l.Setup, Virtual: l.onStack(),
		Verdict: r.pageVerdict(), Where: r.where(), Span: len(l.Columns) + 2,
		Production: l.Production, Sources: l.Sources, Version: p.Version,
	}
	if !p.When.IsZero() {
		out.When = p.When.Format("2 January 2006, 15:04 MST")
	}
	if r.Verdict() == Pass {
		out.Moral = l.Moral
	}
	for _, c := range l.Columns {
		out.Columns = append(out.Columns, c.Head)
	}
	for _, g := range l.groups() {
		group := pageGroup{Head: g.head}
		for i := range r.Rows {
			if row := &r.Rows[i]; row.Variant.Group == g.group {
				group.Rows = append(group.Rows, r.pageRow(row))
			}
		}
		if len(group.Rows) > 0 {
			out.Groups = append(out.Groups, group)
		}
	}
	for i := range r.Rows {
		switch row := &r.Rows[i]; row.Verdict() {
		case Skip:
			out.Exceptions = append(out.Exceptions, pageException{row.Variant.Title, "skipped", []string{row.Skipped}})
		case Fail:
			out.Exceptions = append(out.Exceptions, pageException{row.Variant.Title, "not as expected", row.Problems()})
		}
	}
	out.pictures(r)
	return out
}

func (r *Report) pageVerdict() pageVerdict {
	n := r.count()
	v := pageVerdict{Class: string(r.Verdict())}
	switch r.Verdict() {
	case Pass:
		v.Text, v.Rows = "As expected", plural(n[Pass], "row")
	case Fail:
		v.Text, v.Rows = "Not as expected", fmt.Sprintf("%d of %s", n[Fail], plural(n[Fail]+n[Pass], "row"))
	default:
		v.Text, v.Rows = "Nothing could be measured", "0 rows"
	}
	if n[Skip] > 0 {
		v.Rows += fmt.Sprintf(", %d skipped", n[Skip])
	}
	return v
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r *Report) pageRow(row *Row) pageRow {
	v := row.Variant
	out := pageRow{
		ID: "row-" + v.Name, Name: v.Name, Title: v.Title, Note: v.Note, Belief: v.Belief, Why: v.Why, Verdict: row.Verdict(),
		Mark: map[Verdict]string{Pass: "ok", Fail: "NOT", Skip: "skipped"}[row.Verdict()],
	}
	wrong := row.Differences()
	for _, c := range r.Lab.Columns {
		out.Cells = append(out.Cells, r.pageCell(row, c, slices.Contains(wrong, c.Figure)))
	}
	for _, s := range v.Settings {
		out.Steps = append(out.Steps, pageStep{"set", s.flag()})
	}
	for i := range v.Steps {
		s := &v.Steps[i]
		if s.Sim != nil {
			out.Steps = append(out.Steps, pageStep{s.Name, strings.Join(s.Sim.lines(), "\n")})
			continue
		}
		out.Steps = append(out.Steps, pageStep{s.Name, s.text() + s.expectText()})
	}
	if after := v.afterText(); after != "" {
		out.Steps = append(out.Steps, pageStep{"then", after})
	}
	return out
}

func (r *Report) pageCell(row *Row, c Column, wrong bool) pageCell {
	cell := pageCell{Head: c.Head, Expected: row.expectedCell(c)}
	n, known := row.Measured[c.Figure]
	switch {
	case row.Verdict() == Skip || !known:
		cell.Measured = "–"
		return cell
	case wrong:
		cell.Wrong = true
	}
	cell.Measured = strconv.Itoa(n)
	most := 0
	for i := range r.Rows {
		if r.Rows[i].Verdict() != Skip {
			most = max(most, r.Rows[i].Measured[c.Figure])
		}
	}
	if most > 0 && n >= 0 {
		cell.HasBar = true
		cell.Percent = strconv.FormatFloat(math.Round(1000*float64(n)/float64(most))/10, 'f', -1, 64)
	}
	return cell
}

// where says on what it ran, and how long that took.
func (r *Report) where() string {
	if r.Lab.onStack() {
		return fmt.Sprintf("in virtual time, %v of real time", r.Took.Round(10*time.Millisecond))
	}
	return fmt.Sprintf("Linux %s, uid %d, %v", r.Kernel, r.UID, r.Took.Round(100*time.Millisecond))
}
