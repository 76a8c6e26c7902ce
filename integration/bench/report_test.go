package bench

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// report is everything that was measured. Its JSON is what -json writes.
type report struct {
	Version int      `json:"v"`
	Machine string   `json:"machine"`
	Date    string   `json:"date"`
	Ways    []named  `json:"ways"`
	Missing []string `json:"missing"`
	Rows    []result `json:"rows"`
}

type named struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// result is one row of the table: for each way the value of each round.
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

// table is the report as Markdown: of each way the median, its spread, and in
// brackets the median of the ratios to veth in the same round.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", r.Date, strings.TrimSpace(r.Machine))
	for _, y := range r.Ways {
		fmt.Fprintf(&b, "%s %s\n", y.Name, y.Version)
	}
	for _, name := range r.Missing {
		fmt.Fprintf(&b, "%s is left out\n", name)
	}
	b.WriteString("\n| |")
	for _, y := range r.Ways {
		fmt.Fprintf(&b, " %s |", y.Name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(r.Ways)) + "\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "| %s, %s |", row.Name, row.Unit)
		for _, y := range r.Ways {
			fmt.Fprintf(&b, " %s |", row.cell(y.Name))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (r *result) cell(way string) string {
	v := r.Values[way]
	if len(v) == 0 {
		if r.Failure[way] != "" {
			return "failed"
		}
		return "–"
	}
	text := fmt.Sprintf("%s *%s–%s*", number(median(v)), number(slices.Min(v)), number(slices.Max(v)))
	base := r.Values["veth"]
	if way == "veth" || len(base) != len(v) {
		return text
	}
	ratios := make([]float64, len(v))
	for i := range v {
		ratios[i] = v[i] / base[i]
	}
	return fmt.Sprintf("%s (%s)", text, number(median(ratios)))
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

func TestTable(t *testing.T) {
	r := &report{Date: "2026-01-02", Machine: "m\n", Ways: []named{{"veth", ""}, {"tcpbox", ""}, {"other", "1.0"}}, Missing: []string{"absent"}}
	r.add("bulk", "Gbit/s", "veth", []float64{10, 20, 40})
	r.add("bulk", "Gbit/s", "tcpbox", []float64{5, 20, 10})
	r.fail("bulk", "Gbit/s", "other", fmt.Errorf("no"))
	r.add("memory", "MiB", "tcpbox", []float64{123.4, 0.5})
	const want = `2026-01-02
m
veth 
tcpbox 
other 1.0
absent is left out

| | veth | tcpbox | other |
|---|---:|---:|---:|
| bulk, Gbit/s | 20.0 *10.0–40.0* | 10.0 *5.00–20.0* (0.500) | failed |
| memory, MiB | – | 62.0 *0.500–123* | – |
`
	if got := r.table(); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}
