package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"tcpbox"
	"tcpbox/policy"
)

func (b *fakeBox) Faults() []tcpbox.FaultRule {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}

func (b *fakeBox) AddFault(f policy.Fault) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) >= 3 {
		return 0, fmt.Errorf("tcpbox: %w", tcpbox.ErrTooManyFaults)
	}
	b.lastFault++
	b.faults = append(b.faults, tcpbox.FaultRule{ID: b.lastFault, Fault: f, Matched: 7, Acted: 5, Held: 2})
	return b.lastFault, nil
}

func (b *fakeBox) RemoveFault(id int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.faults)
	b.faults = slices.DeleteFunc(b.faults, func(r tcpbox.FaultRule) bool { return r.ID == id })
	if len(b.faults) == n {
		return fmt.Errorf("tcpbox: fault %d: %w", id, tcpbox.ErrNoFault)
	}
	return nil
}

func TestFaults(t *testing.T) {
	runtimeDir(t)
	serve(t, "web", &fakeBox{})
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	var rules []policy.Fault
	for _, text := range []string{"loss 5%", "hold 3s synack"} {
		f, err := policy.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, f)
	}
	added, err := c.AddFaults(t.Context(), rules...)
	if err != nil || len(added.Faults) != 2 || added.Faults[1].ID != 2 || added.Faults[1].Rule != "hold 3s synack" {
		t.Fatalf("AddFaults = %+v, %v", added, err)
	}
	now, err := c.Faults(t.Context())
	if want := (Fault{ID: 1, Rule: "loss 5%", Matched: 7, Acted: 5, Held: 2}); err != nil || len(now.Faults) != 2 || now.Faults[0] != want {
		t.Errorf("Faults = %+v, %v", now, err)
	}

	// All or none.
	var remote *RemoteError
	if _, err := c.AddFaults(t.Context(), rules...); !errors.As(err, &remote) || remote.Status != http.StatusConflict || !strings.Contains(remote.Hint, "fault rm") || remote.Message != "2 faults beside the 2 in force are more than the 64 that there may be" {
		t.Errorf("AddFaults = %v", err)
	}
	if now, err := c.Faults(t.Context()); err != nil || len(now.Faults) != 2 {
		t.Errorf("Faults = %+v, %v", now, err)
	}

	// More than there may be has nothing to do with those that there are.
	if _, err := c.AddFaults(t.Context(), slices.Repeat(rules[:1], 70)...); !errors.As(err, &remote) || remote.Status != http.StatusBadRequest ||
		remote.Message != "70 faults are more than the 64 that there may be" || strings.Contains(remote.Hint, "fault rm") {
		t.Errorf("AddFaults of 70 = %v", err)
	}

	gone, err := c.RemoveFault(t.Context(), 1)
	if err != nil || len(gone.Faults) != 1 || gone.Faults[0].Rule != "loss 5%" {
		t.Errorf("RemoveFault = %+v, %v", gone, err)
	}
	if _, err := c.RemoveFault(t.Context(), 1); !errors.As(err, &remote) || remote.Status != http.StatusNotFound {
		t.Errorf("RemoveFault = %v", err)
	}
}

func TestWrongFaults(t *testing.T) {
	runtimeDir(t)
	serve(t, "web", &fakeBox{})
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ method, path, message, hint string }{
		{http.MethodPost, `faults {}`, "there is nothing to add", "loss 5%"},
		{http.MethodPost, `faults {"faults": ["los 5%"]}`, `"los" is not an action`, "loss"},
		{http.MethodPost, `faults {"rules": []}`, "unknown field", "loss 5%"},
		{http.MethodDelete, `faults/x`, "no number of a fault", "GET /v1/faults"},
		{http.MethodPut, `faults`, "method not allowed", "GET"},
	} {
		path, body, _ := strings.Cut(tt.path, " ")
		var in any
		if body != "" {
			in = json.RawMessage(body)
		}
		var remote *RemoteError
		err := c.do(t.Context(), requestTimeout, tt.method, path, in, &struct{}{})
		if !errors.As(err, &remote) || !strings.Contains(remote.Message, tt.message) || !strings.Contains(remote.Hint, tt.hint) {
			t.Errorf("%s %s: %v (%+v), want %q (%q)", tt.method, tt.path, err, remote, tt.message, tt.hint)
		}
	}
}
