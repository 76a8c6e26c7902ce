package main

import (
	"strings"
	"testing"
)

func TestCutToHeight(t *testing.T) {
	text := "head\n1\n2\n3\n4\n5\n"
	for height, want := range map[int]string{
		0: text,
		3: text, // of no use
		4: "head\n1\n4 more lines: the terminal is too low, or a filter would help\n",
		6: "head\n1\n2\n3\n2 more lines: the terminal is too low, or a filter would help\n",
		7: text, // the cursor is on the seventh
		9: text,
	} {
		got := string(cutToHeight([]byte(text), height))
		if got != want {
			t.Errorf("on %d lines:\n%swant\n%s", height, got, want)
		}
		if height > 3 && strings.Count(got, "\n") >= height {
			t.Errorf("%d lines and the cursor's are more than %d", strings.Count(got, "\n"), height)
		}
	}
}
