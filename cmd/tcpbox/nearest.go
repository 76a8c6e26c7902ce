package main

// nearest returns the word of words that word was probably meant to be, or "".
func nearest(word string, words []string) string {
	best, bestAt := "", 3 // more than two slips is another word
	for _, w := range words {
		if d := slips(word, w); d < bestAt && d < len(w) {
			best, bestAt = w, d
		}
	}
	return best
}

// slips counts the letters to insert, delete, replace or swap with a neighbour
// to make b of a (the optimal string alignment distance).
func slips(a, b string) int {
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
