package lab

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestScriptsPage: each step in docs/lab-scripts.md can be read, each kind of step
// is there, and the lab in it passes.
func TestScriptsPage(t *testing.T) {
	text, err := os.ReadFile("../../../docs/lab-scripts.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[simKind]bool{}
	example := ""
	for i, block := range strings.Split(string(text), "```") {
		lang, body, _ := strings.Cut(block, "\n")
		switch {
		case i%2 == 0:
		case lang == "json":
			example = body
		default:
			for line := range strings.Lines(body) {
				s, err := SimStep(strings.TrimSuffix(line, "\n")).parse()
				if err != nil {
					t.Error(err)
				}
				seen[s.kind] = true
			}
		}
	}
	for kind := simRemark; kind <= simWait; kind++ {
		if !seen[kind] {
			t.Errorf("the page has no step of kind %d", kind)
		}
	}
	var l Lab
	if err := json.Unmarshal([]byte(example), &l); err != nil {
		t.Fatal(err)
	}
	if r := runHere(t, &l); r.Verdict != Pass {
		t.Errorf("the lab of the page: %s %+v", r.Verdict, r.Rows)
	}
}
