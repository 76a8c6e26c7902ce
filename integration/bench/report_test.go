package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// report is everything that was measured. Its JSON is what -samples writes.
type report struct {
	Version int      `json:"v"`
	Machine string   `json:"machine"`
	Date    string   `json:"date"`
	Rounds  int      `json:"rounds"`
	Load    [2]load  `json:"load"` // of the machine, before and after
	Ways    []named  `json:"ways"`
	Missing []string `json:"missing"`
	Rows    []result `json:"rows"`
}

// load is how many processes ran or wanted to, on average over a minute.
type load = float64

type named struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// result is one row of the table: for each way the value of each round. A way
// that failed once is not asked again.
type result struct {
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	Values  map[string][]float64 `json:"values"`
	Failure map[string]string    `json:"failures,omitempty"`
}

func (r *report) row(name, unit string) *result {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return &r.Rows[i]
		}
	}
	r.Rows = append(r.Rows, result{Name: name, Unit: unit, Values: map[string][]float64{}, Failure: map[string]string{}})
	return &r.Rows[len(r.Rows)-1]
}

func (r *report) add(name, unit, way string, values []float64) {
	row := r.row(name, unit)
	row.Values[way] = append(row.Values[way], values...)
}

func (r *report) fail(name, unit, way string, err error) {
	r.row(name, unit).Failure[way] = err.Error()
}

// page is the report as docs/performance.md shows it.
func (r *report) page() string {
	var b strings.Builder
	r.preface(&b)
	r.table(&b)
	for _, line := range r.unable() {
		fmt.Fprintf(&b, "\n%s\n", line)
	}
	r.compare(&b)
	return b.String()
}

// preface says when and where it was measured.
func (r *report) preface(b *strings.Builder) {
	fmt.Fprintf(b, "Measured on %s in %d %s on this machine, its load being %.1f before and %.1f after",
		r.Date, r.Rounds, plural(r.Rounds, "round"), r.Load[0], r.Load[1])
	if r.Load[0] > 0.5 {
		b.WriteString(".\n**The machine was busy with other things: trust the ratios, not the figures**")
	}
	fmt.Fprintf(b, ":\n\n```\n%s\n", strings.TrimSpace(r.Machine))
	for _, y := range r.Ways {
		if y.Version != "" {
			fmt.Fprintf(b, "%s\n", y.Version)
		}
	}
	b.WriteString("```\n\n")
}

func plural(n int, what string) string {
	if n == 1 {
		return what
	}
	return what + "s"
}

// table has of each way the median, its spread, and in brackets the median of
// the ratios to veth in the same round.
func (r *report) table(b *strings.Builder) {
	b.WriteString("| |")
	for _, y := range r.Ways {
		fmt.Fprintf(b, " %s |", y.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(r.Ways)) + "\n")
	for _, row := range r.Rows {
		fmt.Fprintf(b, "| %s, %s |", row.Name, row.Unit)
		for _, y := range r.Ways {
			fmt.Fprintf(b, " %s |", row.cell(y.Name))
		}
		b.WriteByte('\n')
	}
}

func (r *result) cell(way string) string {
	v := r.Values[way]
	if len(v) == 0 || r.Failure[way] != "" {
		if r.Failure[way] != "" {
			return "could not"
		}
		return "–"
	}
	text := fmt.Sprintf("%s *%s–%s*", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
	if ratio, ok := r.ratio(way, "veth"); ok && way != "veth" {
		text = fmt.Sprintf("%s (%s)", text, number(ratio))
	}
	return text
}

// ratio is the median of way's values, each divided by other's in the same
// round.
func (r *result) ratio(way, other string) (float64, bool) {
	ratios := r.ratios(way, other)
	if ratios == nil {
		return 0, false
	}
	return median(ratios), true
}

// ratios are way's values, each divided by other's in the same round; nil if they
// cannot be compared.
func (r *result) ratios(way, other string) []float64 {
	v, base := r.Values[way], r.Values[other]
	if len(v) == 0 || len(v) != len(base) {
		return nil
	}
	ratios := make([]float64, len(v))
	for i := range v {
		ratios[i] = v[i] / base[i]
	}
	return ratios
}

// unable says what was not measured, and why.
func (r *report) unable() (lines []string) {
	if len(r.Missing) > 0 {
		lines = append(lines, "Left out: "+strings.Join(r.Missing, ", ")+".")
	}
	for _, row := range r.Rows {
		for _, y := range r.Ways {
			if why := row.Failure[y.Name]; why != "" {
				lines = append(lines, fmt.Sprintf("%s could not do “%s”: %s.", y.Name, row.Name, strings.ReplaceAll(why, "\n", "; ")))
			}
		}
	}
	return lines
}

// compare lists, for each other stack, in which rows tcpbox is behind it.
func (r *report) compare(b *strings.Builder) {
	for _, y := range r.Ways {
		if y.Name == "veth" || y.Name == "tcpbox" {
			continue
		}
		if strings.HasPrefix(y.Name, "tcpbox") {
			continue // tcpbox itself, in another way
		}
		var behind []string
		for _, row := range r.Rows {
			ratio, ok := row.ratio("tcpbox", y.Name)
			if ok && less(row.Unit) {
				ratio = 1 / ratio
			}
			if ok && ratio < 1 {
				behind = append(behind, fmt.Sprintf("- %s: %s times as good", row.Name, number(ratio)))
			}
		}
		if behind == nil {
			fmt.Fprintf(b, "\ntcpbox is behind %s nowhere in this table.\n", y.Name)
			continue
		}
		fmt.Fprintf(b, "\ntcpbox is behind %s here (the median of the rounds' ratios):\n\n%s\n", y.Name, strings.Join(behind, "\n"))
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// number has three digits that say something.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func TestPage(t *testing.T) {
	r := &report{
		Date: "2026-01-02", Machine: "m\n", Rounds: 3, Load: [2]load{1.26, 2}, Missing: []string{"absent"},
		Ways: []named{{"veth", ""}, {"tcpbox", ""}, {"other", "other 1.0"}, {"weak", "weak 2"}},
	}
	r.add("bulk", "Gbit/s", "veth", []float64{10, 20, 40})
	r.add("bulk", "Gbit/s", "tcpbox", []float64{5, 20, 10})
	r.add("bulk", "Gbit/s", "other", []float64{10, 20, 20})
	r.fail("bulk", "Gbit/s", "weak", fmt.Errorf("no\nno"))
	r.add("memory", "MiB", "tcpbox", []float64{123.4, 0.5})
	r.add("memory", "MiB", "other", []float64{12.34, 0.1})
	const want = "Measured on 2026-01-02 in 3 rounds on this machine, its load being 1.3 before and 2.0 after.\n" +
		"**The machine was busy with other things: trust the ratios, not the figures**:\n\n" +
		"```\nm\nother 1.0\nweak 2\n```\n" + `
| | veth | tcpbox | other | weak |
|---|---:|---:|---:|---:|
| bulk, Gbit/s | 20.0 *10.0–40.0* | 10.0 *5.00–20.0* (0.500) | 20.0 *10.0–20.0* (1.00) | could not |
| memory, MiB | – | 62.0 *0.500–123* | 6.22 *0.100–12.3* | – |

Left out: absent.

weak could not do “bulk”: no; no.

tcpbox is behind other here (the median of the rounds' ratios):

- bulk: 0.500 times as good
- memory: 0.133 times as good

tcpbox is behind weak nowhere in this table.
`
	if got := r.page(); got != want {
		t.Errorf("the page is\n%s\nwant\n%s", got, want)
	}
}
