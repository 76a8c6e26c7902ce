package main

import (
	"slices"

	"tcpbox/stack/statelog"
)

// filterWords completes the word of a filter that follows those that are given:
// a value, or what may begin a term.
func filterWords(given []string, value string) completion {
	if n := len(given); n > 1 && (given[n-1] == "=" || given[n-1] == "!=") {
		given = given[:n-1]
	}
	words := statelog.FilterWords()
	if n := len(given); n > 0 {
		keyword := given[n-1]
		joins := keyword == "and" || keyword == "or" || keyword == "not"
		isValue := n > 1 && slices.Contains(words, given[n-2])
		if !joins && !isValue && slices.Contains(words, keyword) {
			words = statelog.FilterValues(keyword)
		}
	}
	var all []candidate
	for _, w := range words {
		all = append(all, candidate{w, ""})
	}
	return beginning(value, all)
}
