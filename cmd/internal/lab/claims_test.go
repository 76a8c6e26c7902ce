package lab

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const claimsFile = "../../../docs/tcp-states.md"

// TestClaimsAreShown: each claim names a lab, and the figure that it gives is what
// the lab expects. That the lab measures it is what its own tests show.
func TestClaimsAreShown(t *testing.T) {
	for _, c := range claims {
		if !slices.Contains(claimSections, c.Section) || !slices.Contains([]Truth{True, False, HalfTrue}, c.Truth) {
			t.Errorf("%q: section %q, verdict %q", c.Claim, c.Section, c.Truth)
		}
		if len(c.Shown) == 0 {
			t.Errorf("%q: nothing shows it", c.Claim)
		}
		if !placeholder.MatchString(c.Says) {
			t.Errorf("%q: what is said of it has no figure", c.Claim)
		}
		for _, s := range c.Shown {
			if err := s.check(); err != nil {
				t.Errorf("%q: %v", c.Claim, err)
			}
			if _, err := os.Stat("../../../docs/labs/" + s.Lab + ".md"); err != nil && s.Lab != decoded {
				t.Errorf("%q: what it refers to: %v", c.Claim, err)
			}
		}
	}
}

// TestClaimsAreChecked keeps the test above from passing because it looks away.
func TestClaimsAreChecked(t *testing.T) {
	right := Shown{"teardown", "client-first", "guest.TIME-WAIT.ms", 60000, 0}
	if err := right.check(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*Shown)
		want   string
	}{
		{func(s *Shown) { s.Lab = "tear" }, `no lab "tear"`},
		{func(s *Shown) { s.Row = "client" }, `no row "client"`},
		{func(s *Shown) { s.Figure = "guest.TIME-WAIT.s" }, "is expected to be 0 (false)"},
		{func(s *Shown) { s.Is = 120000 }, "is expected to be 60000 (true), not 120000"},
		{func(s *Shown) { s.Most = 60001 }, "is expected to be 60000 (true)"},
		{func(s *Shown) {
			*s = Shown{"fin-wait2-stuck", "close", "close.timer.fin-wait-2", 40000, 60000}
		}, "is expected to be 40000..60100, not 40000..60000"},
	} {
		s := right
		tt.change(&s)
		if err := s.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", s, err, tt.want)
		}
	}
	c := Claim{Says: "{1s} or {2}", Shown: []Shown{right}}
	if text, err := c.text(); err == nil {
		t.Errorf("%q has a second figure", text)
	}
	c = Claim{Says: "{1s}, {1}, {2s}", Shown: []Shown{right, {Is: 1500, Most: 2000}}}
	if text, err := c.text(); err != nil || text != "60 s, 60000, 1.5 to 2 s" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestClaimsPage: the page is what the claims come to.
func TestClaimsPage(t *testing.T) {
	page, err := claimsPage()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(claimsFile, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(claimsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != page {
		t.Error("docs/tcp-states.md is not what the claims come to: go test ./cmd/internal/lab -run Claims -update")
	}
}
