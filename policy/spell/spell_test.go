package spell

import "testing"

func TestSlips(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "abc", 0},
		{"abc", "ab", 1},
		{"abc", "abd", 1},
		{"abc", "acb", 1}, // a swap
		{"abc", "cab", 2},
		{"tcp", "udp", 2},
	} {
		if got := Slips(row.a, row.b); got != row.want {
			t.Errorf("Slips(%q, %q) = %d, want %d", row.a, row.b, got, row.want)
		}
		if got := Slips(row.b, row.a); got != row.want {
			t.Errorf("Slips(%q, %q) = %d, want %d", row.b, row.a, got, row.want)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"echo", "sink", "sync", "http"}
	for _, row := range []struct {
		word  string
		limit int
		want  string
	}{
		{"ehco", 2, "echo"},
		{"sinc", 2, "sink"}, // the first of two
		{"sinc", 1, ""},
		{"telnet", 3, ""},
		{"", 3, ""},
	} {
		if got := Nearest(row.word, words, row.limit); got != row.want {
			t.Errorf("Nearest(%q, %d) = %q, want %q", row.word, row.limit, got, row.want)
		}
	}
}
