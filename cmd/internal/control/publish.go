package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"tcpbox"
)

// PublishRequest is the body of POST /v1/publish and of POST /v1/unpublish,
// which has no AcceptFrom.
type PublishRequest struct {
	Publish    string         `json:"publish"` // as tcpbox.ParsePublish reads it
	AcceptFrom []netip.Prefix `json:"accept_from,omitempty"`
}

// PublishAnswer is the answer to both: what was published, or was.
type PublishAnswer struct {
	V     int               `json:"v"`
	Ports []tcpbox.PortInfo `json:"ports"`
}

const publishBody = `the body is {"publish": "127.0.0.1:8080:80"}, and may have {"accept_from": ["192.0.2.0/24"]}`

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	s.changePorts(w, r, true, func(p tcpbox.Publish) ([]tcpbox.PortInfo, error) { return s.box.Publish(r.Context(), p) })
}

func (s *Server) unpublish(w http.ResponseWriter, r *http.Request) {
	s.changePorts(w, r, false, s.box.Unpublish)
}

func (s *Server) changePorts(w http.ResponseWriter, r *http.Request, from bool, change func(tcpbox.Publish) ([]tcpbox.PortInfo, error)) {
	var req PublishRequest
	if err := read(r, &req); err != nil {
		refuse(w, http.StatusBadRequest, err, publishBody)
		return
	}
	p, err := tcpbox.ParsePublish(req.Publish)
	if err != nil {
		refusePublish(w, http.StatusBadRequest, err)
		return
	}
	if err := checkAcceptFrom(req.AcceptFrom, from); err != nil {
		refuse(w, http.StatusBadRequest, err, publishBody)
		return
	}
	p.From = req.AcceptFrom
	ports, err := change(p)
	if err != nil {
		refusePublish(w, http.StatusConflict, err)
		return
	}
	answer(w, http.StatusOK, PublishAnswer{V: Version, Ports: ports})
}

// checkAcceptFrom says what is wrong with the clients that may come in; from: they
// have a place in the request.
func checkAcceptFrom(clients []netip.Prefix, from bool) error {
	if len(clients) > 0 && !from {
		return errors.New("accept_from has no place here")
	}
	for _, c := range clients {
		if _, err := tcpbox.ParseAcceptFrom(c.String()); err != nil {
			return fmt.Errorf("accept_from: %w", err)
		}
	}
	return nil
}

// refusePublish answers with the hint of the first error that has one.
func refusePublish(w http.ResponseWriter, status int, err error) {
	var wrong *tcpbox.PublishError
	hint := ""
	if errors.As(err, &wrong) {
		hint = wrong.Hint
	}
	refuse(w, status, err, hint)
}

// Publish makes ports of the sandbox reachable, and returns them.
func (c *Client) Publish(ctx context.Context, p tcpbox.Publish) ([]tcpbox.PortInfo, error) {
	return c.changePorts(ctx, "publish", PublishRequest{p.String(), p.From})
}

// Unpublish takes them back, and returns what they were.
func (c *Client) Unpublish(ctx context.Context, p tcpbox.Publish) ([]tcpbox.PortInfo, error) {
	return c.changePorts(ctx, "unpublish", PublishRequest{Publish: p.String()})
}

func (c *Client) changePorts(ctx context.Context, path string, req PublishRequest) ([]tcpbox.PortInfo, error) {
	var a PublishAnswer
	if err := c.do(ctx, requestTimeout, http.MethodPost, path, req, &a); err != nil {
		return nil, err
	}
	if len(a.Ports) == 0 {
		return nil, fmt.Errorf("control: sandbox %q answered without a port", c.name)
	}
	return a.Ports, nil
}
