package knob

import (
	"strings"

	"tcpbox/stack/tcpstate"
)

// nearest returns the key, with a leg in front if name seems to have one, that
// takes the fewest changes of a letter to get from name; "" if none is near.
func nearest(name string) string {
	if len(name) > 64 {
		return "" // no spelling of a key, and not worth the time
	}
	// As from the kernel's names: tcp_tw_reuse is time-wait.reuse here.
	folded := strings.NewReplacer("_", "-", "tw-", "time-wait.", "tw_", "time-wait.").Replace(strings.ToLower(name))
	best, bestDistance := "", len(folded)/3+1
	consider := func(candidate string) {
		if n := distance(folded, candidate); n < bestDistance {
			best, bestDistance = candidate, n
		}
	}
	for _, key := range keys() {
		consider(key)
		for _, leg := range tcpstate.Legs() {
			consider(leg.String() + "." + key)
		}
	}
	return best
}

// distance is the number of letters to add, drop or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
