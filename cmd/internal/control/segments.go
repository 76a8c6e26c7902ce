package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"tcpbox"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// SegmentsAnswer is the answer to GET /v1/segments/CONN: what the state log has,
// or would have, of the connection, line by line.
type SegmentsAnswer struct {
	V     int               `json:"v"`
	Lines []json.RawMessage `json:"lines"`
}

func (s *Server) segments(w http.ResponseWriter, r *http.Request) {
	conn, err := strconv.ParseUint(r.PathValue("conn"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("%.40q is not the number of a connection", r.PathValue("conn")), "the request is GET /v1/segments/7")
		return
	}
	records, segments, err := s.box.Segments(tcpstate.Conn(conn))
	switch {
	case errors.Is(err, tcpbox.ErrNoTrace):
		refuse(w, http.StatusConflict, err, "start it with --trace-segments")
		return
	case err != nil:
		refuse(w, http.StatusInternalServerError, err, "")
		return
	}
	a := SegmentsAnswer{V: Version, Lines: []json.RawMessage{}}
	for _, rec := range records {
		a.Lines = append(a.Lines, bytes.TrimSpace(statelog.AppendJSON(nil, rec)))
	}
	for i := range segments {
		a.Lines = append(a.Lines, bytes.TrimSpace(statelog.AppendSegment(nil, &segments[i])))
	}
	answer(w, http.StatusOK, a)
}

// Segments returns what is kept of a connection, as lines of the state log; none
// if nothing is known of it.
func (c *Client) Segments(ctx context.Context, conn tcpstate.Conn) ([]byte, error) {
	var a SegmentsAnswer
	if err := c.do(ctx, requestTimeout, http.MethodGet, fmt.Sprintf("segments/%d", conn), nil, &a); err != nil {
		return nil, err
	}
	var lines []byte
	for _, line := range a.Lines {
		lines = append(append(lines, line...), '\n')
	}
	return lines, nil
}
