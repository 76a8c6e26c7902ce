package legs

import (
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// logged is what the log has of the guest's leg of a connection.
type logged struct {
	ends
	records  []statelog.Record
	segments []statelog.Segment
	pids     []tcpstate.Facts // with a process
}

// states are those that the log prints, but for UNKNOWN, which leaves it open.
// What it says twice, with UNKNOWN between, is one.
func (l *logged) states() (all []tcpstate.State) {
	for _, r := range l.records {
		if r.To != tcpstate.Unknown && (len(all) == 0 || all[len(all)-1] != r.To) {
			all = append(all, r.To)
		}
	}
	return all
}

// readLogged reads the guest's leg of a log, in the order in which connections
// begin.
func readLogged(t testing.TB, path string) (all []*logged) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	byConn := make(map[tcpstate.Conn]*logged)
	of := func(c tcpstate.Conn) *logged {
		if byConn[c] == nil {
			byConn[c] = &logged{}
			all = append(all, byConn[c])
		}
		return byConn[c]
	}
	r := statelog.NewReader(f)
	r.OnSegment = func(s statelog.Segment) error {
		l := of(s.Conn)
		l.segments = append(l.segments, s)
		return nil
	}
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		switch {
		case rec.Dropped != 0:
			t.Fatalf("%d records are missing", rec.Dropped)
		case rec.Facts != nil && rec.Facts.PID != 0:
			of(rec.Conn).pids = append(of(rec.Conn).pids, *rec.Facts)
		case rec.Facts == nil && rec.Leg == tcpstate.Guest:
			l := of(rec.Conn)
			l.ends = ends{rec.Local, rec.Remote}
			l.records = append(l.records, rec)
		}
	}
	return all
}

// cut takes away what the end of the sandbox did: to what was left, and with the
// FINs of its peers.
func cut(all []*logged, ended time.Time) {
	for _, l := range all {
		l.segments = slices.DeleteFunc(l.segments, func(s statelog.Segment) bool { return s.Time.After(ended) })
		l.records = slices.DeleteFunc(l.records, func(r statelog.Record) bool {
			return r.Cause == tcpstate.Cause{Kind: tcpstate.ByPolicy, Which: "stopped"} || r.Time.After(ended) && r.Source == tcpstate.FromWire
		})
	}
}
