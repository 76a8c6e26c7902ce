package control

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"tcpbox"
	"tcpbox/stack/tcpstate"
)

// ConnDo knows connection 7; 9 cannot be frozen.
func (b *fakeBox) ConnDo(conn tcpstate.Conn, verb tcpbox.ConnVerb) error {
	e := &tcpbox.ConnError{Conn: conn, Verb: verb, Hint: "look"}
	switch conn {
	case 7:
		b.mu.Lock()
		defer b.mu.Unlock()
		b.done = append(b.done, fmt.Sprintf("%v %d", verb, conn))
		return nil
	case 9:
		e.Err = tcpbox.ErrNoFreeze
	default:
		e.Err = tcpbox.ErrConnUnknown
	}
	return e
}

func TestConn(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{}
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, verb := range []tcpbox.ConnVerb{tcpbox.ConnRST, tcpbox.ConnClose, tcpbox.ConnFreeze, tcpbox.ConnThaw} {
		a, err := c.ConnDo(t.Context(), 7, verb)
		if err != nil || a != (ConnAnswer{V: Version, Conn: 7, Verb: verb.String()}) {
			t.Errorf("ConnDo(%v) = %+v, %v", verb, a, err)
		}
		want = append(want, verb.String()+" 7")
	}
	if got := fmt.Sprint(box.done); got != fmt.Sprint(want) {
		t.Errorf("the box was told %v, want %v", got, want)
	}
	for conn, status := range map[tcpstate.Conn]int{8: http.StatusNotFound, 9: http.StatusConflict} {
		var remote *RemoteError
		_, err := c.ConnDo(t.Context(), conn, tcpbox.ConnFreeze)
		if !errors.As(err, &remote) || remote.Status != status || remote.Hint != "look" || !strings.Contains(remote.Message, "freeze of connection") {
			t.Errorf("ConnDo of %d: %v, want status %d", conn, err, status)
		}
	}
}

func TestBadConnRequests(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{}
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "conn/0/rst", "", http.StatusBadRequest},
		{"POST", "conn/-7/rst", "", http.StatusBadRequest},
		{"POST", "conn/%237/rst", "", http.StatusBadRequest},
		{"POST", "conn/99999999999999999999/rst", "", http.StatusBadRequest},
		{"POST", "conn/7/RST", "", http.StatusBadRequest},
		{"POST", "conn/7/melt", "", http.StatusBadRequest},
		{"POST", "conn/7/none", "", http.StatusBadRequest},
		{"POST", "conn/7/rst", `{"now":true}`, http.StatusBadRequest},
		{"POST", "conn/7/rst", `{}{}`, http.StatusBadRequest},
		{"GET", "conn/7/rst", "", http.StatusMethodNotAllowed},
		{"POST", "conn/7", "", http.StatusNotFound},
		{"POST", "conn/7/rst/now", "", http.StatusNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), row.method, "http://sandbox/v1/"+row.path, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != row.want {
			t.Errorf("%s %s %s: %d, want %d", row.method, row.path, row.body, resp.StatusCode, row.want)
		}
	}
	if len(box.done) != 0 {
		t.Errorf("the box was told %v", box.done)
	}
}
