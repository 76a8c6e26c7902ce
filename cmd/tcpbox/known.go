package main

import (
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
)

// withFacts draws of the facts of a connection one line, when it has ended, with
// all that is known of it. Until then the lines of its states say enough.
func withFacts(encode func([]byte, statelog.Record) []byte) func([]byte, statelog.Record) []byte {
	table := legs.Table{MaxRows: 1 << 13, MaxEnded: 1 << 8} // what is beyond has its own facts only
	return func(b []byte, r statelog.Record) []byte {
		row := table.Add(&r)
		if r.Facts != nil {
			if r.Facts.Bytes == nil {
				return b
			}
			if row != nil {
				known := row.Facts
				r.Facts = &known
			}
		}
		return encode(b, r)
	}
}
