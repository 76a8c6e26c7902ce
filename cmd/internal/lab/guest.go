package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// An answer is what the guest says to a step.
type answer struct {
	Figures Figures `json:"figures,omitempty"`
	Error   string  `json:"error,omitempty"` // the step could not be done at all
}

// ServeGuest plays the guest of a lab: it reads steps, one JSON value each,
// from r, does them, and writes to w one line of JSON for each, until r ends.
// It is meant to be the whole program: tcpbox lab guest.
func ServeGuest(r io.Reader, w io.Writer) error {
	steps, answers := json.NewDecoder(r), json.NewEncoder(w)
	p := newProgram()
	for {
		var s Step
		if err := steps.Decode(&s); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("lab: read a step: %w", err)
		}
		var a answer
		err := s.check()
		if err == nil {
			a.Figures, err = p.do(&s)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("lab: write an answer: %w", err)
		}
	}
}

// lookupTime bounds the look-up of a peer's name.
const lookupTime = 10 * time.Second

// resolve returns the IPv4 address of a peer, "server:80".
func resolve(to string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(n)), nil
}
