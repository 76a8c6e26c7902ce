package lab

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

//go:embed testdata/measure.html
var measurePage string

// pageOf is the page of a report.
func pageOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b, Page{Version: "v1.2.3", When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// asExpected is the report of a lab that measures what it expects.
func asExpected(l *Lab) *Report {
	r := &Report{Lab: l, Kernel: "6.18.44", UID: 1000, Took: 3 * time.Second}
	for i := range l.Variants {
		v := &l.Variants[i]
		row := Row{Variant: v, Expected: v.expected(), Within: v.within(), Measured: maps.Clone(v.expected())}
		for name, within := range row.Within {
			row.Measured[name] = within.Max
		}
		r.Rows = append(r.Rows, row)
	}
	return r
}

// played is a lab in virtual time that has run, with what happened in it.
func played(t *testing.T, name string) *Report {
	t.Helper()
	l, ok := Find(name)
	if !ok {
		t.Fatalf("there is no lab %q", name)
	}
	r, err := (&Runner{KeepLog: true}).Run(t.Context(), &l)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict() != Pass {
		t.Fatalf("the verdict on %s is %s", name, r.Verdict())
	}
	return r
}

// pagesUnderTest are a page for each lab, one with everything that may go wrong, and
// one with every picture.
func pagesUnderTest(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, l := range Labs() {
		pages[l.Name] = pageOf(t, asExpected(&l))
	}
	pages["played"] = pageOf(t, played(t, "teardown"))
	pages["diagram"] = pageOf(t, played(t, "all-states"))
	l := TimeWaitExhaustion(40)
	l.Variants[0].Title = "<script>alert(1)</script>"
	broken := asExpected(&l)
	broken.Rows[1].Measured["first.ok"] = 28232
	broken.Rows[2].Skipped = "this kernel has no net.ipv4.tcp_tw_reuse_delay"
	broken.Rows[3].Err = "step first: the guest has gone: " + strings.Repeat("x", 300)
	pages["broken"] = pageOf(t, broken)
	return pages
}

// TestPageNeedsNothing: nothing in a page refers to anything outside it, and what it
// is given cannot become a part of it.
func TestPageNeedsNothing(t *testing.T) {
	reference := regexp.MustCompile(`(?i)<(script|link|iframe|img|object|embed|base|form)\b[^>]*>|\s(src|srcset|href|action|poster|data|xlink:href)\s*=\s*"[^"]*"|@import|url\([^)]*\)`)
	allowed := regexp.MustCompile(`^(<link rel="icon" href="data:,">| href="#row-[a-z0-9-]+"|url\(#(head|cross)(-narrow)?\))$`)
	for name, page := range pagesUnderTest(t) {
		for _, found := range reference.FindAllString(page, -1) {
			if !allowed.MatchString(found) {
				t.Errorf("%s has %q", name, found)
			}
		}
	}
}

// TestPageTells: what the report has is in the page.
func TestPageTells(t *testing.T) {
	pages := pagesUnderTest(t)
	for name, wants := range map[string][]string{
		"time-wait-exhaustion": {"As expected", "18 rows", "Linux 6.18.44, uid 1000, 3s", "tcp_tw_reuse=1, delay 1 ms", "Believed: ", "ss -Htan", "RFC 6191", `width:66.7%`, "2 January 2026", "v1.2.3"},
		"played":               {"in virtual time", `class="state-fin-wait-1"`, "at most 1", `<svg xmlns="http://www.w3.org/2000/svg"`, "FIN-WAIT-2", "One connection, segment by segment"},
		"diagram":              {"Every state, and how it was entered", "CLOSING", "g 2  s 2"},
		"broken":               {"Not as expected", "2 of 17 rows, 1 skipped", "&lt;script&gt;alert(1)", "expected 40", ">28232<", "this kernel has no net.ipv4.tcp_tw_reuse_delay", "it broke off: step first", ">NOT<", ">skipped<"},
	} {
		for _, want := range wants {
			if !strings.Contains(pages[name], want) {
				t.Errorf("the page %s has no %q", name, want)
			}
		}
	}
	for _, missing := range []string{"Best cures", "<script"} {
		if strings.Contains(pages["broken"], missing) {
			t.Errorf("the page of a lab that is not as expected has %q", missing)
		}
	}
}

// openings are how pages are opened.
var openings = []struct {
	name, scheme string
	width        int
	paper        bool
	labs         bool // the page of each lab; else those with everything in them
}{
	{"light", "light", 1200, false, true},
	{"dark", "dark", 1200, false, false},
	{"phone", "light", 390, false, true},
	{"narrow phone, dark", "dark", 320, false, false},
	{"print", "light", 718, true, true}, // A4 with margins of a centimetre, at 96 dots an inch
}

// TestPageRendered has a browser lay out the pages, as they are seen on a screen, on a
// phone and on paper, and measures: no text is clipped or overlaps another, and each
// can be read.
func TestPageRendered(t *testing.T) {
	testnet.Require(t)
	browser := testnet.NewBrowser(t)
	pages := pagesUnderTest(t)
	names := slices.Sorted(maps.Keys(pages))
	grounds := map[string]string{}
	for _, scheme := range []string{"light", "dark"} {
		var list [][]any
		for _, o := range openings {
			for _, name := range names {
				if _, isLab := Find(name); o.scheme == scheme && (!isLab || o.labs) {
					list = append(list, []any{o.name + ": " + name, o.width, o.paper, pages[name]})
				}
			}
		}
		r := measurePages(t, browser, scheme, list)
		if r.Dark != (scheme == "dark") {
			t.Fatalf("asked for %s the browser has dark: %v", scheme, r.Dark)
		}
		if len(r.Pages) != len(list) {
			t.Fatalf("%d pages of %d", len(r.Pages), len(list))
		}
		for i, p := range r.Pages {
			for _, f := range p.Faults {
				t.Errorf("%s: %s", p.Name, f)
			}
			if p.Width != list[i][1] || p.Texts < 50 {
				t.Errorf("%s: %d texts at a width of %d, want at least 50 and %d", p.Name, p.Texts, p.Width, list[i][1])
			}
			grounds[scheme] = p.Ground
		}
	}
	if grounds["light"] == grounds["dark"] {
		t.Errorf("the ground is %s in both", grounds["light"])
	}
}

type measuredPages struct {
	Dark  bool
	Pages []struct {
		Name, Ground string
		Width, Texts int
		Contrast     float64
		Faults       []string
	}
}

func measurePages(t *testing.T, browser *testnet.Browser, scheme string, list [][]any) (r measuredPages) {
	t.Helper()
	for _, one := range list { // the policy of the page would not let it be measured
		one[3] = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>`).ReplaceAllString(fmt.Sprint(one[3]), "")
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	found, err := browser.Result(strings.Replace(measurePage, "= PAGES;", "= "+string(text)+";", 1), scheme)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(found), &r); err != nil {
		t.Fatalf("%v: %.500s", err, found)
	}
	return r
}

// TestPageMeasureFinds keeps the test above from passing because it looks away.
func TestPageMeasureFinds(t *testing.T) {
	testnet.Require(t)
	rows := []struct{ body, want string }{
		{`<p>fine`, ""},
		{`<p style="width:900px">this is wide`, "in a window of 390"},
		{`<p style="position:absolute;left:-9px">left`, "is clipped"},
		{`<p style="width:50px;overflow:hidden;white-space:nowrap">one two three four five`, "is cut off"},
		{`<p>one<p style="margin-top:-30px">two`, "overlaps"},
		{`<p style="color:#bbb">faint`, "a contrast of 1."},
		{`<div class="ladder" style="overflow-x:auto;width:80px"><p style="width:300px">it scrolls, and so it is fine`, ""},
		{`<p hidden>gone`, "is not there"},
	}
	var list [][]any
	for _, row := range rows {
		list = append(list, []any{row.body, 390, false, "<!DOCTYPE html><style>body{margin:8px;background:#fff;color:#000}</style>" + row.body})
	}
	for i, p := range measurePages(t, testnet.NewBrowser(t), "light", list).Pages {
		if found := strings.Join(p.Faults, "; "); (found == "") != (rows[i].want == "") || !strings.Contains(found, rows[i].want) {
			t.Errorf("%s: found %q, want %q", rows[i].body, found, rows[i].want)
		}
	}
}

// TestPageAsksForNothing has a browser open a page as it is: no request leaves it, and
// there is nothing on the console. A page that does ask for something is found out.
func TestPageAsksForNothing(t *testing.T) {
	testnet.Require(t)
	browser := testnet.NewBrowser(t)
	dir := testnet.Dir(t)
	for i, tt := range []struct {
		page             string
		requests, speaks bool
	}{
		{pageOf(t, played(t, "teardown")), false, false},
		{`<!DOCTYPE html><link rel="icon" href="data:,"><p><img src="http://192.0.2.1/x.png">`, true, false},
		{`<!DOCTYPE html><link rel="icon" href="data:,"><script>console.error("no")</script>`, false, true},
		{strings.Replace(pageOf(t, played(t, "teardown")), "<main>", `<main><img src="http://192.0.2.1/x.png">`, 1), false, true}, // its policy refuses
	} {
		file, netLog := filepath.Join(dir, fmt.Sprintf("page%d.html", i)), filepath.Join(dir, fmt.Sprintf("net%d.json", i))
		if err := os.WriteFile(file, []byte(tt.page), 0o600); err != nil {
			t.Fatal(err)
		}
		_, said := browser.Open(file, "light", "--enable-logging=stderr", "--log-level=0", "--log-net-log="+netLog, "--dump-dom")
		log, err := os.ReadFile(netLog)
		if err != nil {
			t.Fatal(err)
		}
		requests := regexp.MustCompile(`"url":"(https?|wss?|ftp):[^"]*"`).FindAllString(string(log), -1)
		console := regexp.MustCompile(`CONSOLE.*`).FindAllString(said, -1)
		if (len(requests) > 0) != tt.requests || (len(console) > 0) != tt.speaks {
			t.Errorf("page %d: requests %q and on the console %q, want any: %v, %v", i, requests, console, tt.requests, tt.speaks)
		}
	}
}
