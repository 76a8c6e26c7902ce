package control

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"tcpbox"
)

func TestWhatIsAskedOfTheLog(t *testing.T) {
	for query, want := range map[string]tcpbox.FollowOptions{
		"":                        {Past: true},
		"follow=1":                {},
		"rows=1&ended=1&follow=0": {Rows: true, Ended: true, Past: true},
		"last=1024":               {Last: 1024, Past: true},
	} {
		q, _ := url.ParseQuery(query)
		if got, err := logQuery(q); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", query, got, err, want)
		}
	}
	for _, bad := range []string{"follow=yes", "rows=2", "last=-1", "last=1025", "last=x", "colour=red"} {
		q, _ := url.ParseQuery(bad)
		if got, err := logQuery(q); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func FuzzLogQuery(f *testing.F) {
	f.Add("rows=1&last=5")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if opt, err := logQuery(q); err == nil && (opt.Last < 0 || opt.Last > tcpbox.MaxLast) {
			t.Errorf("%q: the last %d records", query, opt.Last)
		}
	})
}

func TestOneFollowerTooMany(t *testing.T) {
	box := &fakeBox{} // which has no place for any
	runtimeDir(t)
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Log(t.Context(), tcpbox.FollowOptions{})
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Status != http.StatusServiceUnavailable || !strings.Contains(remote.Hint, "16") {
		t.Errorf("one too many: %v, want status 503", err)
	}
	if _, err := c.Stat(t.Context()); err != nil {
		t.Errorf("stat: %v", err)
	}
}
