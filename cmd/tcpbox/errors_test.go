package main

import (
	"strings"
	"testing"
)

func TestShorten(t *testing.T) {
	x := strings.Repeat("x", 300)
	for _, row := range []struct{ text, want string }{
		{"", ""},
		{`--log "a b": no such file`, `--log "a b": no such file`},
		{`"` + x[:198] + `"`, `"` + x[:198] + `"`}, // a long path stands whole
		{`--net "` + x + `": no`, `--net "` + x[:79] + `…": no`},
		{"there is no flag --" + x, "there is no flag --" + x[:78] + "…"},
		{`"a \" b ` + x + `"`, `"a \" b ` + x[:72] + `…"`},
		{`"` + x[:77] + `\x1b` + x + `"`, `"` + x[:77] + `…"`},
		{`"` + strings.Repeat(`\\`, 200) + `"`, `"…"`},
		{strings.Repeat("é", 150), strings.Repeat("é", 40) + "…"},
		{"x" + strings.Repeat("é", 150), "x" + strings.Repeat("é", 39) + "…"},
	} {
		if got := shorten(row.text); got != row.want {
			t.Errorf("shorten(%q) = %q, want %q", row.text, got, row.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"web", "web"},
		{"größe", "größe"},
		{"\a", `"\a"`},
		{"a\xff", `"a\xff"`},
	} {
		if got := printable(row.text); got != row.want {
			t.Errorf("printable(%q) = %s, want %s", row.text, got, row.want)
		}
	}
}
