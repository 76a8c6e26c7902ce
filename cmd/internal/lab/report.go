package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Report is what a lab measured.
type Report struct {
	Lab    *Lab
	Kernel string // as uname -r gives it
	UID    int    // of whoever ran it
	Took   time.Duration
	Rows   []Row // in the order of Lab.Variants
}

// Row is what one variant measured.
type Row struct {
	Variant *Variant
	Skipped string // why it could not be measured here, or empty
	Err     string // why it broke off, or empty
	Took    time.Duration

	// The figures of the steps, "first.ok", and those of Variant.After.
	Expected, Measured Figures

	Within map[string]Range // as in the Variant

	// Misses are the checks of scripts that do not hold.
	Misses []Miss

	// Log is what happened, if the Runner kept it.
	Log Log
}

// Verdict is the outcome of a row or of a lab.
type Verdict string

// The verdicts.
const (
	Pass Verdict = "pass" // as expected
	Fail Verdict = "fail" // otherwise than expected
	Skip Verdict = "skip" // this machine does not offer it: neither
)

// add takes the figures of a step.
func (f Figures) add(step string, of Figures) {
	f[step+".ok"] = 0 // shown also where there is none
	for name, n := range of {
		f[step+"."+name] = n
	}
}

// expected are all the figures that the row expects.
func (v *Variant) expected() Figures {
	f := Figures{}
	for i := range v.Steps {
		f.add(v.Steps[i].Name, v.Steps[i].expected())
	}
	maps.Copy(f, v.After)
	return f
}

// within are all the figures of which the row expects bounds.
func (v *Variant) within() map[string]Range {
	all := map[string]Range{}
	maps.Copy(all, v.Within)
	for i := range v.Steps {
		for name, r := range v.Steps[i].Within {
			all[v.Steps[i].Name+"."+name] = r
		}
	}
	return all
}

// Differences are the names of the figures that are not as expected, in order.
// Of a step every figure is compared; of those counted afterwards only the
// expected ones.
func (r *Row) Differences() []string {
	var names []string
	for name, n := range r.Expected {
		if r.Measured[name] != n {
			names = append(names, name)
		}
	}
	for name, within := range r.Within {
		if n, ok := r.Measured[name]; !ok || !within.holds(n) {
			names = append(names, name)
		}
	}
	for name := range r.Measured {
		_, expected := r.Expected[name]
		if _, within := r.Within[name]; !expected && !within && r.stepOf(name) != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Verdict is the verdict on the row.
func (r *Row) Verdict() Verdict {
	switch {
	case r.Skipped != "":
		return Skip
	case r.Err != "" || len(r.Differences()) > 0:
		return Fail
	}
	return Pass
}

// Problems tells, on lines, what is not as expected; none if all is, or the
// row was skipped.
func (r *Row) Problems() []string {
	if r.Verdict() != Fail {
		return nil
	}
	if r.Err != "" {
		return []string{"it broke off: " + r.Err}
	}
	var lines []string
	for _, m := range r.Misses {
		lines = append(lines, m.String())
	}
	for _, step := range r.steps() {
		if step == "" {
			for _, name := range r.Differences() {
				if r.stepOf(name) == "" {
					lines = append(lines, fmt.Sprintf("%s: expected %s", name, r.expectedText(name)),
						fmt.Sprintf("%*s  measured %d", len(name), "", r.Measured[name]))
				}
			}
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: expected %s", step, r.expectedOf(step)),
			fmt.Sprintf("%*s  measured %s", len(step), "", r.Measured.of(step)))
	}
	return lines
}

// steps are the steps that differ, and "" if a figure counted afterwards does.
func (r *Row) steps() []string {
	var steps []string
	for _, name := range r.Differences() {
		if step := r.stepOf(name); !slices.Contains(steps, step) {
			steps = append(steps, step)
		}
	}
	return steps
}

// stepOf returns the step that a figure is of, and "" for one that is counted
// when all steps are done.
func (r *Row) stepOf(name string) string { return r.Variant.stepOf(name) }

func (v *Variant) stepOf(name string) string {
	first, _, _ := strings.Cut(name, ".")
	if slices.ContainsFunc(v.Steps, func(s Step) bool { return s.Name == first }) {
		return first
	}
	return ""
}

// expectedText writes what is expected of a figure.
func (r *Row) expectedText(name string) string {
	if within, ok := r.Within[name]; ok {
		return within.String()
	}
	return strconv.Itoa(r.Expected[name])
}

// expectedOf is Figures.of for what is expected, with the bounds.
func (r *Row) expectedOf(step string) string {
	text := r.Expected.of(step)
	for _, name := range slices.Sorted(maps.Keys(r.Within)) {
		if short, ok := strings.CutPrefix(name, step+"."); ok {
			text += fmt.Sprintf(", %s %s", r.Within[name], short)
		}
	}
	return text
}

// of writes the figures of a step: "40 ok, 20 EADDRNOTAVAIL, first-failure 41".
func (f Figures) of(step string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		switch short, ok := strings.CutPrefix(name, step+"."); {
		case !ok || short == "ok":
		case short == "connections" && f[name] == 1:
			parts = append(parts, "1 connection")
		case short == "first-failure":
			parts = append(parts, fmt.Sprintf("the first at %d", f[name]))
		default:
			parts = append(parts, fmt.Sprintf("%d %s", f[name], short))
		}
	}
	return strings.Join(append([]string{fmt.Sprintf("%d ok", f[step+".ok"])}, parts...), ", ")
}

// count returns how many rows have each verdict.
func (r *Report) count() map[Verdict]int {
	n := map[Verdict]int{}
	for i := range r.Rows {
		n[r.Rows[i].Verdict()]++
	}
	return n
}

// Verdict is the verdict on the lab: Skip only if no row was measured.
func (r *Report) Verdict() Verdict {
	switch n := r.count(); {
	case n[Fail] > 0:
		return Fail
	case n[Pass] > 0:
		return Pass
	}
	return Skip
}

// ExitStatus is the status of the program that ran the lab: 0 if all was as
// expected, 1 if something was not, 125 if nothing could be measured here.
func (r *Report) ExitStatus() int {
	switch r.Verdict() {
	case Pass:
		return 0
	case Fail:
		return 1
	}
	return 125
}

// JSONVersion is the version of the form that WriteJSON writes.
const JSONVersion = 2

// reportJSON is the form that WriteJSON writes, version 2. A field that is
// added or changes its meaning makes a new version.
type reportJSON struct {
	V       int       `json:"v"`
	Lab     string    `json:"lab"`
	Where   Where     `json:"where"`   // guest: on this machine's kernel; stack: in virtual time
	Verdict Verdict   `json:"verdict"` // pass, fail, or skip: no row could be measured
	Kernel  string    `json:"kernel"`  // as uname -r
	UID     int       `json:"uid"`     // whose
	Seconds float64   `json:"seconds"` // how long it took
	Rows    []rowJSON `json:"rows"`
}

type rowJSON struct {
	Row      string    `json:"row"`      // its name in the lab
	Group    Group     `json:"group"`    // problem, cure, price or belief
	Title    string    `json:"title"`    // what is changed, for people
	Settings []Setting `json:"settings"` // what is set in this row beside the lab's own settings
	Verdict  Verdict   `json:"verdict"`
	Skipped  string    `json:"skipped,omitempty"` // why it could not be measured
	Error    string    `json:"error,omitempty"`   // why it broke off
	Seconds  float64   `json:"seconds"`

	// Counts by name. STEP.ok is how many attempts succeeded, STEP.E… how many
	// failed with that errno, STEP.first-failure which attempt failed first,
	// from 1. guest.time-wait is the guest kernel's sockets in TIME-WAIT at the
	// end, stack.time-wait the stack's, syn-retransmits the SYNs that were
	// repeated, time-wait-overflow the TIME-WAITs that the kernel refused.
	Expected Figures `json:"expected"`
	Measured Figures `json:"measured"`

	Within map[string]Range `json:"within,omitempty"` // expected bounds, of figures that are in neither of the others by number

	Differences []string `json:"differences"`      // the names that are not as expected
	Misses      []Miss   `json:"misses,omitempty"` // the checks of a script that do not hold
}

// WriteJSON writes the report as one JSON value and a line end.
func (r *Report) WriteJSON(w io.Writer) error {
	out := reportJSON{
		V: JSONVersion, Lab: r.Lab.Name, Where: cmp.Or(r.Lab.Where, OnGuest), Verdict: r.Verdict(), Kernel: r.Kernel, UID: r.UID,
		Seconds: seconds(r.Took), Rows: []rowJSON{},
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		j := rowJSON{
			Row: row.Variant.Name, Group: row.Variant.Group, Title: row.Variant.Title,
			Settings: append([]Setting{}, row.Variant.Settings...),
			Verdict:  row.Verdict(), Skipped: row.Skipped, Error: row.Err, Seconds: seconds(row.Took),
			Expected: row.Expected, Measured: row.Measured, Within: row.Within, Differences: []string{}, Misses: row.Misses,
		}
		if j.Verdict == Fail {
			j.Differences = append(j.Differences, row.Differences()...)
		}
		out.Rows = append(out.Rows, j)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

// seconds rounds to milliseconds.
func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}
