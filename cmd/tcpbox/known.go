package main

import (
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
)

// Connections of a log whose facts are remembered: of what is beyond, a line of facts
// says only what is new.
const (
	maxRowsOfLog  = 1 << 13
	maxEndedOfLog = 1 << 8
)

// withFacts draws of the facts of a connection one line, when it has ended, with
// all that is known of it, and one when it was frozen or thawed. Otherwise the lines
// of its states say enough.
func withFacts(encode func([]byte, statelog.Record) []byte) func([]byte, statelog.Record) []byte {
	table := legs.Table{MaxRows: maxRowsOfLog, MaxEnded: maxEndedOfLog}
	return func(b []byte, r statelog.Record) []byte {
		row := table.Add(&r)
		if r.Facts != nil {
			switch {
			case r.Facts.Frozen != nil && r.Facts.Bytes == nil:
				return encode(b, r)
			case r.Facts.Bytes == nil:
				return b
			}
			if row != nil {
				known := row.Facts
				known.Frozen = nil // it was told
				r.Facts = &known
			}
		}
		return encode(b, r)
	}
}

// chosen gives write what a filter chooses of the log, and all markers.
func chosen(filter statelog.Filter, write func([]statelog.Item)) func([]statelog.Item) {
	if filter.IsZero() {
		return write
	}
	table := legs.Table{MaxRows: maxRowsOfLog, MaxEnded: maxEndedOfLog}
	var kept []statelog.Item
	return func(items []statelog.Item) {
		kept = kept[:0]
		for i := range items {
			r := items[i].Record("")
			facts := r.Facts
			if row := table.Add(&r); row != nil {
				facts = &row.Facts
			}
			if filter.MatchKnown(&r, facts) {
				kept = append(kept, items[i])
			}
		}
		if len(kept) > 0 {
			write(kept)
		}
	}
}
