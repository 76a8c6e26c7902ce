package legs

import (
	"cmp"
	"slices"
	"time"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Limits of a Table that names none. A row takes about 600 bytes.
const (
	DefaultMaxRows  = 1 << 16
	DefaultMaxEnded = 1 << 10
)

// Table joins the records of each connection into a Row. What has ended is kept
// for a while. It is not safe for concurrent use.
type Table struct {
	// MaxRows is how many connections that have not ended there may be: of what
	// is beyond, records are counted and forgotten. MaxEnded is how many that
	// have ended are kept, the last ones. Zero means the defaults; a negative
	// MaxEnded keeps none. Set them before the first Add.
	MaxRows, MaxEnded int

	rows map[connection]*Row

	// ended are those that have ended, the oldest first. gone counts those that
	// were forgotten.
	ended []connection
	gone  uint64

	missed, dropped uint64
	last            time.Time
}

type connection struct {
	sandbox string
	conn    tcpstate.Conn
}

// Add folds a record in and returns the row that it is about: nil for a marker
// or a change of a setting, and if there was no room. The row is the table's, and stays as it is until the
// next Add.
func (t *Table) Add(r *statelog.Record) *Row {
	if r.Time.After(t.last) {
		t.last = r.Time
	}
	if r.Dropped > 0 {
		t.dropped += r.Dropped
		return nil
	}
	if r.Set != nil {
		return nil
	}
	key := connection{r.Sandbox, r.Conn}
	row := t.rows[key]
	if row == nil {
		if row = t.begin(key, r); row == nil {
			return nil
		}
	}
	if r.Facts != nil {
		row.Facts.Add(r.Facts)
	} else {
		row.take(r)
	}
	if row.Began.IsZero() {
		row.Began = r.Time
	}
	switch ended := row.Ended(); {
	case ended && !row.ended && r.Facts == nil:
		row.ended = true
		t.end(key)
	case !ended && row.ended:
		row.ended = false
		t.revive(key)
	}
	return row
}

// begin makes a row, if there is room. Facts that come first and do not say between
// whom the connection is are of one that has long ended: they make none.
func (t *Table) begin(key connection, r *statelog.Record) *Row {
	if r.Facts != nil && !r.Facts.Guest.IsValid() {
		return nil
	}
	most := cmp.Or(t.MaxRows, DefaultMaxRows)
	if len(t.rows)-len(t.ended) >= most {
		t.missed++
		return nil
	}
	if t.rows == nil {
		t.rows = make(map[connection]*Row)
	}
	row := &Row{Sandbox: r.Sandbox}
	row.Conn = r.Conn
	t.rows[key] = row
	return row
}

// end notes that a connection has ended, and forgets the one that did so first if
// there are too many.
func (t *Table) end(key connection) {
	t.ended = append(t.ended, key)
	for len(t.ended) > max(0, cmp.Or(t.MaxEnded, DefaultMaxEnded)) {
		oldest := t.ended[0]
		t.ended = t.ended[1:]
		delete(t.rows, oldest)
		t.gone++
	}
}

// revive takes a connection out of those that have ended, which is rare: a leg of
// it is seen late.
func (t *Table) revive(key connection) {
	for i := len(t.ended) - 1; i >= 0; i-- {
		if t.ended[i] == key {
			t.ended = slices.Delete(t.ended, i, i+1)
			return
		}
	}
}

// Rows returns copies of the rows that the filter chooses, in the order in which
// their connections began: those that have not ended, and with ended the others
// too.
func (t *Table) Rows(f statelog.Filter, ended bool) []Row {
	var rows []Row
	for _, r := range t.rows {
		if (ended || !r.Ended()) && r.Match(f) {
			rows = append(rows, *r)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Sandbox, b.Sandbox), cmp.Compare(a.Conn, b.Conn))
	})
	return rows
}

// Find returns a copy of the row of one connection.
func (t *Table) Find(sandbox string, conn tcpstate.Conn) (r Row, known bool) {
	if row := t.rows[connection{sandbox, conn}]; row != nil {
		return *row, true
	}
	return Row{}, false
}

// Last is the time of the last record.
func (t *Table) Last() time.Time { return t.last }

// Missed counts what the table lacks.
type Missed struct {
	Dropped uint64 // records that the log lacks
	Records uint64 // records of connections there was no room for
	Ended   uint64 // connections that had ended and were forgotten
}

// Missed returns what the table lacks.
func (t *Table) Missed() Missed { return Missed{t.dropped, t.missed, t.gone} }
