package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/knob"
)

// maxTold is how many destinations are remembered as having been told of. The
// guest chooses how many there are.
const maxTold = 256

// A speaker tells the person at the terminal what tcpbox does to the guest.
// Each line begins with "tcpbox:", for the guest writes to the same place.
type speaker struct {
	w     io.Writer
	quiet bool

	mu     sync.Mutex
	told   map[destination]int
	untold int
}

type destination struct {
	proto policy.Proto
	dst   string
}

func newSpeaker(w io.Writer, quiet bool) *speaker {
	return &speaker{w: w, quiet: quiet, told: make(map[destination]int)}
}

func (s *speaker) warn(text string) { s.line("warning: " + text) }

// lost tells of something that was asked for and is lost. That is told even to
// those who want quiet.
func (s *speaker) lost(text string) { fmt.Fprintf(s.w, "tcpbox: warning: %s\n", text) }

func (s *speaker) line(text string) {
	if !s.quiet {
		fmt.Fprintf(s.w, "tcpbox: %s\n", text)
	}
}

// refused tells once for each destination what was refused, and what would
// allow it.
func (s *speaker) refused(r tcpbox.Refusal) {
	if s.quiet {
		return
	}
	where := whereTo(r.Request)
	d := destination{r.Request.Proto, where}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.told[d]; ok {
		s.told[d]++
		return
	}
	if len(s.told) >= maxTold {
		s.untold++
		return
	}
	s.told[d] = 1
	switch {
	case r.Unsupported:
		s.line(fmt.Sprintf("refused %s: %s", where, r.Why))
	case r.Verdict.Hint != "":
		s.line(fmt.Sprintf("refused %s (%s); to allow it: %s", where, r.Verdict.Rule, r.Verdict.Hint))
	default:
		s.line(fmt.Sprintf("refused %s (%s)", where, r.Verdict.Rule))
	}
}

// whereTo names what was tried: for TCP the destination alone.
func whereTo(r policy.Request) string {
	host, port := r.Dst.Addr().String(), strconv.Itoa(int(r.Dst.Port()))
	if r.Host {
		host = tcpbox.HostName
	}
	switch r.Proto {
	case policy.ICMP:
		return "ping to " + host
	case policy.UDP:
		return "UDP to " + net.JoinHostPort(host, port)
	}
	return net.JoinHostPort(host, port)
}

// outcome tells which leg does not carry a setting. What was set as asked
// needs no word.
func (s *speaker) outcome(o knob.Outcome) {
	if !o.Applied {
		s.line(o.String())
	}
}

// note tells what a setting says of itself.
func (s *speaker) note(n knob.Note) { s.line("note: " + n.Text) }

// summary tells at the end what went untold.
func (s *speaker) summary() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untold > 0 {
		s.line(fmt.Sprintf("refused %d more connections, to destinations beyond the first %d", s.untold, maxTold))
	}
}
