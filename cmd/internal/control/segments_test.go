package control

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"tcpbox"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// fakeSegments knows connection 7, and keeps nothing of 9.
func fakeSegments(conn tcpstate.Conn) ([]statelog.Record, []statelog.Segment, error) {
	switch conn {
	case 7:
		return []statelog.Record{{Conn: 7, Leg: tcpstate.Stack}}, []statelog.Segment{{Conn: 7, Sender: tcpstate.Guest}}, nil
	case 9:
		return nil, nil, tcpbox.ErrNoTrace
	}
	return nil, nil, nil
}

func TestSegments(t *testing.T) {
	runtimeDir(t)
	serve(t, "web", &fakeBox{})
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := c.Segments(t.Context(), 7)
	if n := strings.Count(string(lines), "\n"); n != 2 || err != nil || !strings.Contains(string(lines), `"segment":"guest"`) {
		t.Errorf("Segments(7) = %q, %v", lines, err)
	}
	if lines, err := c.Segments(t.Context(), 8); len(lines) != 0 || err != nil {
		t.Errorf("Segments(8) = %q, %v", lines, err)
	}
	var remote *RemoteError
	if _, err := c.Segments(t.Context(), 9); !errors.As(err, &remote) || remote.Status != http.StatusConflict || !strings.Contains(remote.Hint, "--trace-segments") {
		t.Errorf("Segments(9): %v", err)
	}
}
