package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"tcpbox"
	"tcpbox/stack/tcpstate"
)

// ConnAnswer is the answer to POST /v1/conn/CONN/VERB: what was done, and to which
// connection.
type ConnAnswer struct {
	V    int           `json:"v"`
	Conn tcpstate.Conn `json:"conn"`
	Verb string        `json:"verb"`
}

const connRequest = "the request is POST /v1/conn/7/freeze, without a body"

func (s *Server) conn(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseUint(r.PathValue("conn"), 10, 64)
	if err != nil || n == 0 {
		refuse(w, http.StatusBadRequest, fmt.Errorf("%.40q is not the number of a connection", r.PathValue("conn")), connRequest)
		return
	}
	verb, err := tcpbox.ParseConnVerb(r.PathValue("verb"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err, "it is rst, close, freeze or thaw")
		return
	}
	if err := read(r, &struct{}{}); err != nil {
		refuse(w, http.StatusBadRequest, err, connRequest)
		return
	}
	err = s.box.ConnDo(tcpstate.Conn(n), verb)
	if err == nil {
		answer(w, http.StatusOK, ConnAnswer{V: Version, Conn: tcpstate.Conn(n), Verb: verb.String()})
		return
	}
	var why *tcpbox.ConnError
	hint := ""
	if errors.As(err, &why) {
		hint = why.Hint
	}
	status := http.StatusConflict
	if errors.Is(err, tcpbox.ErrConnUnknown) {
		status = http.StatusNotFound
	}
	refuse(w, status, err, hint)
}

// ConnDo does what the verb says to a connection. A RemoteError whose status is 404
// says that there is none of this number.
func (c *Client) ConnDo(ctx context.Context, conn tcpstate.Conn, verb tcpbox.ConnVerb) (ConnAnswer, error) {
	var a ConnAnswer
	err := c.do(ctx, requestTimeout, http.MethodPost, fmt.Sprintf("conn/%d/%v", conn, verb), nil, &a)
	return a, err
}
