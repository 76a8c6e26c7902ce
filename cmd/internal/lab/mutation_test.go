package lab

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"testing"
)

// mutation takes away the cause of a row, or expects what is not so. The verdict
// has to notice.
type mutation struct {
	row, name string
	breaks    func(v *Variant)
}

// mutations are those of each lab.
var mutations = map[string][]mutation{
	"time-wait-exhaustion": timeWaitMutations,
	"host-port-exhaustion": hostPortMutations,
	"close-wait-leak":      closeWaitMutations,
	"fin-wait2-stuck":      finWait2Mutations,
	"rst-vs-fin":           rstVsFINMutations,
	"syn-backlog":          synBacklogMutations,
	"accept-overflow":      acceptOverflowMutations,
	"syn-flood":            synFloodMutations,
	"half-open-keepalive":  keepaliveMutations,
	"zero-window":          zeroWindowMutations,
	"time-wait-length":     timeWaitLengthMutations,
}

// clone copies a row so that nothing is shared.
func clone(t *testing.T, v *Variant) (c Variant) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// mutated is a lab of nothing but rows that have been broken.
func mutated(t *testing.T, l Lab, all []mutation) *Lab {
	t.Helper()
	whole := l.Variants
	l.Variants = nil
	for _, m := range all {
		i := slices.IndexFunc(whole, func(v Variant) bool { return v.Name == m.row })
		if i < 0 {
			t.Fatalf("%s has no row %q to break", l.Name, m.row)
		}
		v := clone(t, &whole[i])
		m.breaks(&v)
		if same := clone(t, &whole[i]); equalJSON(t, v, same) {
			t.Errorf("%s, %s: the mutation %q changes nothing", l.Name, m.row, m.name)
		}
		l.Variants = append(l.Variants, v)
	}
	return &l
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	var texts [2][]byte
	for i, v := range []any{a, b} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = text
	}
	return bytes.Equal(texts[0], texts[1])
}

func TestEveryLabHasMutations(t *testing.T) {
	for _, l := range Labs() {
		if len(mutations[l.Name]) == 0 {
			t.Errorf("nothing breaks %s", l.Name)
		}
		for _, v := range l.Variants {
			if v.Group == Problem && !slices.ContainsFunc(mutations[l.Name], func(m mutation) bool { return m.row == v.Name }) {
				t.Errorf("nothing breaks the row %s of %s, which shows the problem", v.Name, l.Name)
			}
		}
	}
}

func TestABrokenCauseFailsTheVerdict(t *testing.T) {
	for _, l := range Labs() {
		broken := mutated(t, l, mutations[l.Name])
		for i := range broken.Variants { // a row may be broken in several ways
			broken.Variants[i].Name += "-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		}
		verdicts := func(t *testing.T, r *reportJSON) {
			t.Helper()
			if r.Verdict != Fail {
				t.Errorf("the verdict is %s, want fail", r.Verdict)
			}
			for i, row := range r.Rows {
				name := mutations[l.Name][i].name
				switch row.Verdict {
				case Pass:
					t.Errorf("%s: row %s passes all the same: measured %v", name, row.Row, row.Measured)
				case Skip:
					t.Logf("%s: row %s was skipped: %s", name, row.Row, row.Skipped)
				}
				if row.Error != "" {
					t.Errorf("%s: row %s broke off: %s", name, row.Row, row.Error)
				}
			}
		}
		t.Run(l.Name, func(t *testing.T) {
			if l.onStack() {
				verdicts(t, runHere(t, broken))
				return
			}
			if testing.Short() {
				t.Skip("it takes seconds of real time")
			}
			t.Parallel() // it waits, most of the time
			asUser(t, func(t *testing.T, _ int, command func(string) *exec.Cmd) {
				r := measure(t, command("lab-broken"), broken)
				verdicts(t, &r)
			})
		})
	}
}

// TestSimulatedLabsPass runs the labs that need no kernel.
func TestSimulatedLabsPass(t *testing.T) {
	for _, l := range Labs() {
		if !l.onStack() {
			continue
		}
		t.Run(l.Name, func(t *testing.T) {
			r := runHere(t, &l)
			for _, row := range r.Rows {
				if row.Verdict != Pass {
					t.Errorf("row %s: %s %s; not as expected: %v\nexpected %v %v\nmeasured %v\nmisses %v",
						row.Row, row.Verdict, row.Error, row.Differences, row.Expected, row.Within, row.Measured, row.Misses)
				}
			}
		})
	}
}

// runHere runs a lab in this process.
func runHere(t *testing.T, l *Lab) *reportJSON {
	t.Helper()
	report, err := runner().Run(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := report.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var r reportJSON
	if err := json.Unmarshal(b.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}
