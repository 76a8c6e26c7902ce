package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// steps are n connections that open in the stack.
func steps(from, n int) (items []statelog.Item) {
	for i := from; i < from+n; i++ {
		items = append(items, statelog.Item{Transition: tcpstate.Transition{
			Time: time.Unix(int64(i), 0).UTC(), Conn: tcpstate.Conn(i), Leg: tcpstate.Stack, From: tcpstate.Closed, To: tcpstate.SynReceived,
			Local: netip.MustParseAddrPort("198.18.0.16:80"), Remote: netip.MustParseAddrPort("198.18.0.2:40001"),
		}})
	}
	return items
}

func presentBox() *Sandbox {
	return &Sandbox{name: "web", log: &recorder{present: newPresent("web")}}
}

func TestAFollowerIsGivenThePastAndThenWhatComes(t *testing.T) {
	s := presentBox()
	s.log.take(steps(1, 5))
	f, err := s.Follow(FollowOptions{Last: 2})
	if err != nil {
		t.Fatal(err)
	}
	s.log.take(steps(6, 1))
	s.log.end()
	var got []tcpstate.Conn
	for {
		r, err := f.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Conn)
	}
	if fmt.Sprint(got) != "[4 5 6]" {
		t.Errorf("the follower got %v, want 4, 5 and 6", got)
	}
	f.Close()
}

func TestAFollowerThatIsTooSlowIsToldWhatItLacks(t *testing.T) {
	s := presentBox()
	f, err := s.Follow(FollowOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const more = 100
	s.log.take(steps(1, followerRecords+more))
	for range followerRecords / 2 {
		if _, err := f.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.log.take(steps(followerRecords+more+1, 1))
	s.log.end()
	got, lacks := followerRecords/2, 0
	for {
		r, err := f.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if lacks += int(r.Dropped); r.Dropped == 0 {
			got++
		}
	}
	if got != followerRecords+1 || lacks != more {
		t.Errorf("%d records and %d missing, want %d and %d", got, lacks, followerRecords+1, more)
	}
}

func TestTheNumberOfFollowersIsBounded(t *testing.T) {
	s := presentBox()
	var all []*Follower
	for range MaxFollowers {
		f, err := s.Follow(FollowOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	if _, err := s.Follow(FollowOptions{}); !errors.Is(err, ErrTooManyFollowers) {
		t.Errorf("one more: %v, want %v", err, ErrTooManyFollowers)
	}
	if f, err := s.Follow(FollowOptions{Past: true}); err != nil {
		t.Errorf("who does not follow: %v", err)
	} else {
		f.Close()
	}
	all[0].Close()
	all[0].Close()
	if _, err := s.Follow(FollowOptions{}); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all[1].Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a follower whose client has gone: %v", err)
	}
}

func TestRowsAreGivenAsRecordsThatMakeThem(t *testing.T) {
	s := presentBox()
	s.log.take(steps(1, 3))
	s.log.take([]statelog.Item{{Facts: &tcpstate.Facts{
		Time: time.Unix(9, 0).UTC(), Conn: 2, PID: 7, Command: "curl", Name: "web", Bytes: &tcpstate.Bytes{Outbound: 3},
	}}})
	f, err := s.Follow(FollowOptions{Rows: true, Past: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var table legs.Table
	for {
		r, err := f.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		// As a client reads them.
		line := statelog.AppendJSON(nil, r)
		if r, err = statelog.Parse(line[:len(line)-1]); err != nil {
			t.Fatal(err)
		}
		table.Add(&r)
	}
	rows := func(t *legs.Table) (rows []legs.Row) {
		for _, r := range t.Rows(statelog.Filter{}, true) {
			r.Time = r.Began // when the facts were learnt is not kept
			rows = append(rows, r)
		}
		return rows
	}
	if got, want := rows(&table), rows(&s.log.table); !reflect.DeepEqual(got, want) {
		t.Errorf("the rows are\n%+v, want\n%+v", got, want)
	}
}

func TestTheLastRecordsAreARing(t *testing.T) {
	s := presentBox()
	s.log.take(steps(1, MaxLast+10))
	last := s.log.lastLocked(MaxLast)
	if len(last) != MaxLast || last[0].Conn != 11 || last[MaxLast-1].Conn != MaxLast+10 {
		t.Errorf("%d records from %d to %d, want %d from 11 on", len(last), last[0].Conn, last[len(last)-1].Conn, MaxLast)
	}
}

func TestRetransSegs(t *testing.T) {
	const snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 42 0\n"
	if n := retransSegs(snmp); n == nil || *n != 42 {
		t.Errorf("%v, want 42", n)
	}
	for _, bad := range []string{"", "Tcp: RetransSegs\n", "Tcp: RetransSegs\nTcp: x\n", "Tcp: A RetransSegs\nTcp: 1\n"} {
		if n := retransSegs(bad); n != nil {
			t.Errorf("%q: %d", bad, *n)
		}
	}
}
