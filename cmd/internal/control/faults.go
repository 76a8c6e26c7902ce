package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"tcpbox"
	"tcpbox/policy"
)

// FaultsRequest is the body of POST /v1/faults.
type FaultsRequest struct {
	Faults []string `json:"faults"` // as policy.ParseFault reads them
}

// FaultsAnswer is the answer to GET, POST and DELETE of /v1/faults: what is in
// force, what was added, and what was taken away.
type FaultsAnswer struct {
	V      int     `json:"v"`
	Faults []Fault `json:"faults"`
}

// Fault is a fault that is in force.
type Fault struct {
	ID      int    `json:"id"`
	Rule    string `json:"rule"`
	Matched uint64 `json:"matched"`        // packets that were meant
	Acted   uint64 `json:"acted"`          // those of them that were acted on
	Held    int    `json:"held"`           // packets that wait now
	Full    uint64 `json:"full,omitempty"` // those that were dropped because too much waited
}

func faultOf(r tcpbox.FaultRule) Fault {
	return Fault{ID: r.ID, Rule: r.Fault.String(), Matched: r.Matched, Acted: r.Acted, Held: r.Held, Full: r.Full}
}

const faultsBody = `the body is {"faults": ["loss 5%"]}`

func (s *Server) faults(w http.ResponseWriter, _ *http.Request) {
	answerFaults(w, s.box.Faults())
}

func answerFaults(w http.ResponseWriter, rules []tcpbox.FaultRule) {
	out := FaultsAnswer{V: Version, Faults: []Fault{}}
	for _, r := range rules {
		out.Faults = append(out.Faults, faultOf(r))
	}
	answer(w, http.StatusOK, out)
}

// addFaults adds all of the rules or none.
func (s *Server) addFaults(w http.ResponseWriter, r *http.Request) {
	var req FaultsRequest
	err := read(r, &req)
	if err == nil && len(req.Faults) == 0 {
		err = errors.New("there is nothing to add")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err, faultsBody)
		return
	}
	if n := len(req.Faults); n > tcpbox.MaxFaults {
		refuse(w, http.StatusBadRequest, fmt.Errorf("%d faults are more than the %d that there may be", n, tcpbox.MaxFaults), "add fewer; docs/faults.md says how one rule is for many packets")
		return
	}
	var rules []policy.Fault
	for _, text := range req.Faults {
		f, err := policy.ParseFault(text)
		if err != nil {
			var wrong *policy.ParseError
			errors.As(err, &wrong)
			refuse(w, http.StatusBadRequest, err, wrong.Hint)
			return
		}
		rules = append(rules, f)
	}
	var added []tcpbox.FaultRule
	for _, f := range rules {
		id, err := s.box.AddFault(f)
		if err != nil {
			for _, a := range added {
				err = errors.Join(err, s.box.RemoveFault(a.ID))
			}
			hint := ""
			if errors.Is(err, tcpbox.ErrTooManyFaults) {
				err = fmt.Errorf("%d faults beside the %d in force are more than the %d that there may be", len(rules), len(s.box.Faults()), tcpbox.MaxFaults)
				hint = `nothing was added; "tcpbox fault rm" makes room`
			}
			refuse(w, http.StatusConflict, err, hint)
			return
		}
		added = append(added, tcpbox.FaultRule{ID: id, Fault: f})
	}
	answerFaults(w, added)
}

func (s *Server) removeFault(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		refuse(w, http.StatusBadRequest, errors.New("that is no number of a fault"), "GET /v1/faults lists them")
		return
	}
	var was []tcpbox.FaultRule
	for _, f := range s.box.Faults() {
		if f.ID == id {
			was = append(was, f)
		}
	}
	if err := s.box.RemoveFault(id); err != nil {
		refuse(w, http.StatusNotFound, err, `"tcpbox fault ls" lists those that there are`)
		return
	}
	answerFaults(w, was)
}

// Faults returns the faults that are in force.
func (c *Client) Faults(ctx context.Context) (FaultsAnswer, error) {
	var out FaultsAnswer
	err := c.do(ctx, requestTimeout, http.MethodGet, "faults", nil, &out)
	return out, err
}

// AddFaults adds faults, all or none.
func (c *Client) AddFaults(ctx context.Context, rules ...policy.Fault) (FaultsAnswer, error) {
	var req FaultsRequest
	for _, f := range rules {
		req.Faults = append(req.Faults, f.String())
	}
	var out FaultsAnswer
	err := c.do(ctx, requestTimeout, http.MethodPost, "faults", req, &out)
	return out, err
}

// RemoveFault takes a fault away; what it has kept back arrives at once.
func (c *Client) RemoveFault(ctx context.Context, id int) (FaultsAnswer, error) {
	var out FaultsAnswer
	err := c.do(ctx, requestTimeout, http.MethodDelete, "faults/"+strconv.Itoa(id), nil, &out)
	return out, err
}
