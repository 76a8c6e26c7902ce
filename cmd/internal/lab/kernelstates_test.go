package lab

import (
	"os/exec"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

func init() {
	mutations["all-states-kernel"] = []mutation{
		{"three-connections", "the FINs do not cross", func(v *Variant) {
			for i := range v.Steps {
				switch v.Steps[i].Name {
				case "hold":
					v.Steps[i].Set = &Set{NoFaults: true}
				case "end3": // the guest's FIN has come before
					v.Steps[i].Expect = Figures{"ok": 1}
				}
			}
		}},
		{"no-crossing", "they cross", func(v *Variant) { *v = withName(AllStatesKernel().Variants[0], v) }},
	}
}

// withName is a row that expects what another one does.
func withName(v Variant, as *Variant) Variant {
	v.Name, v.After, v.Within = as.Name, as.After, nil
	return v
}

// TestAllStatesOnTheKernel: the guest's kernel, told of by the trace for root and
// by segments and sock_diag for a user, and the stack enter each state.
func TestAllStatesOnTheKernel(t *testing.T) {
	as(t, func(t *testing.T, _ int, command func(string) *exec.Cmd) {
		l := AllStatesKernel()
		r := measure(t, command("lab-run"), &l)
		if r.Verdict != Pass {
			t.Errorf("the verdict is %s: %+v", r.Verdict, r.Rows)
		}
		row := rowOf(t, &r, "three-connections")
		for _, leg := range []string{"guest", "stack"} {
			for _, s := range tcpstate.All() {
				if n := row.Measured["entered."+leg+"."+strings.ToLower(s.String())]; n == 0 {
					t.Errorf("the %s never entered %v", leg, s)
				}
			}
		}
		t.Logf("guest %d of 11, stack %d of 11", row.Measured["entered.guest"], row.Measured["entered.stack"])
	})
}
