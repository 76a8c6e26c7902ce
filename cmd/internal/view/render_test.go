package view

import (
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tcpbox/integration/testnet"
)

//go:embed testdata/measure.html
var measure string

// rendered is what measure.html has found.
type rendered struct {
	Dark, Light bool
	Pictures    []struct {
		Name      string
		Texts     int
		Ground    string
		Contrast  float64 // the least of a text, as WCAG 2.2 has it
		Stretched float64 // the most that a text is longer or shorter than its font has it
		Faults    []string
	}
}

// TestSVGRendered has a browser lay out the pictures that are kept, on light and
// on dark ground, and measures: no text is clipped or overlaps another, and each
// can be read.
func TestSVGRendered(t *testing.T) {
	testnet.Require(t)
	browser := testnet.NewBrowser(t)
	files, err := filepath.Glob("testdata/*/*.svg")
	if err != nil || len(files) < len(plays) {
		t.Fatalf("%d pictures, %v", len(files), err)
	}
	var pictures [][2]string
	for _, name := range files {
		svg, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pictures = append(pictures, [2]string{filepath.Base(name), string(svg)})
	}
	grounds := make(map[string]string)
	for _, scheme := range []string{"light", "dark"} {
		r := render(t, browser, scheme, pictures)
		if r.Dark != (scheme == "dark") || r.Light != (scheme == "light") {
			t.Fatalf("asked for %s the browser has dark: %v, light: %v", scheme, r.Dark, r.Light)
		}
		least, most := 21.0, 0.0
		for _, p := range r.Pictures {
			for _, f := range p.Faults {
				t.Errorf("%s, %s: %s", p.Name, scheme, f)
			}
			if p.Texts < 5 {
				t.Errorf("%s, %s: %d texts", p.Name, scheme, p.Texts)
			}
			// Told how long it is, a text may be drawn a little wider than its font is.
			if p.Stretched > 0.15 {
				t.Errorf("%s, %s: a text is stretched by %.0f %%", p.Name, scheme, 100*p.Stretched)
			}
			least, most = min(least, p.Contrast), max(most, p.Stretched)
			grounds[scheme] = p.Ground
		}
		if len(r.Pictures) != len(pictures) {
			t.Errorf("%s: %d pictures of %d", scheme, len(r.Pictures), len(pictures))
		}
		t.Logf("%s: %d pictures, the least contrast is %.1f, texts are stretched by up to %.1f %%", scheme, len(r.Pictures), least, 100*most)
	}
	if grounds["light"] == grounds["dark"] {
		t.Errorf("the ground is %s in both", grounds["light"])
	}
}

// TestMeasureFinds keeps the test above from passing because it looks away.
func TestMeasureFinds(t *testing.T) {
	testnet.Require(t)
	browser := testnet.NewBrowser(t)
	const begin = `<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100" viewBox="0 0 200 100"><style>text { font: 13px monospace } </style><rect class="ground" width="100%" height="100%" fill="#ffffff"/>`
	text := func(x, y, s, fill string) string {
		return `<text x="` + x + `" y="` + y + `" textLength="40" lengthAdjust="spacingAndGlyphs" fill="` + fill + `">` + s + `</text>`
	}
	rows := []struct{ name, body, want string }{
		{"fine", text("10", "30", "fine", "#000000"), ""},
		{"clipped", text("170", "30", "right", "#000000"), "is clipped"},
		{"cut off above", text("10", "3", "above", "#000000"), "is clipped"},
		{"overlapping", text("10", "30", "one", "#000000") + text("40", "35", "two", "#000000"), "overlaps"},
		{"faint", text("10", "30", "faint", "#cccccc"), "a contrast of 1."},
		{"no picture", "<text>", "no picture"},
	}
	var pictures [][2]string
	for _, row := range rows {
		pictures = append(pictures, [2]string{row.name, begin + row.body + "</svg>"})
	}
	for i, p := range render(t, browser, "light", pictures).Pictures {
		if found := strings.Join(p.Faults, "; "); (found == "") != (rows[i].want == "") || !strings.Contains(found, rows[i].want) {
			t.Errorf("%s: found %q, want %q", rows[i].name, found, rows[i].want)
		}
	}
}

// render has the browser measure pictures with a preferred colour scheme.
func render(t *testing.T, browser *testnet.Browser, scheme string, pictures [][2]string) (r rendered) {
	t.Helper()
	list, err := json.Marshal(pictures) // it escapes what would end the script
	if err != nil {
		t.Fatal(err)
	}
	text, err := browser.Result(strings.Replace(measure, "= PICTURES;", "= "+string(list)+";", 1), scheme)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %.500s", err, text)
	}
	return r
}
