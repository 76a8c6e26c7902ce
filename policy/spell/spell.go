// Package spell finds the word that somebody meant who wrote another.
package spell

// Slips counts the letters to insert, delete, replace or swap with a neighbour
// to make b of a (the optimal string alignment distance). It takes len(a) times
// len(b) steps: bound what comes from outside.
func Slips(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

// Nearest returns the first of those words that take the fewest slips to make of
// word, if those are fewer than limit; else "".
func Nearest(word string, words []string, limit int) string {
	best := ""
	for _, w := range words {
		if n := Slips(word, w); n < limit {
			best, limit = w, n
		}
	}
	return best
}
