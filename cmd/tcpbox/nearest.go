package main

import "tcpbox/policy/spell"

// nearest returns the word of words that word was probably meant to be, or "":
// more than two slips is another word, and so is one without a letter in common.
func nearest(word string, words []string) string {
	best := spell.Nearest(word, words, 3)
	if best != "" && spell.Slips(word, best) >= len(best) {
		return ""
	}
	return best
}
