package main

import "testing"

func TestLogIsNotKept(t *testing.T) {
	for _, row := range []struct {
		to   string
		kept []int
		ok   bool
	}{
		{"", []int{3}, true},
		{"-", []int{3}, true},
		{"fd:3", nil, true},
		{"fd:4", []int{3, 5}, true},
		{"fd:5", []int{3, 5}, false},
	} {
		if err := checkLogIsOurs(row.to, row.kept); (err == nil) != row.ok {
			t.Errorf("--log %q, --keep-fd %v: %v", row.to, row.kept, err)
		}
	}
}
