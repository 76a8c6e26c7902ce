// Package doctor finds out whether tcpbox can work on this machine for this
// caller, what is lacking, what that costs, and which command mends it.
//
// It looks less than it tries: a sandbox is really started, and each thing that
// a sandbox needs is tried in namespaces of its own, so that two faults are
// told at once and each under its name. What was found (facts) and what is said
// of it (explain) are apart: the second is a pure function.
//
// Begin with Examine; the program must call tcpbox.Init and, where it is run
// with Options.Probe, Probe.
package doctor

import (
	"context"
	"time"
)

// State is how a thing stands.
type State string

// The states of a Check.
const (
	OK      State = "ok"
	Warning State = "warning" // tcpbox works, but does less
	Cannot  State = "cannot"  // no sandbox can be made because of it
	Untried State = "untried" // what is needed to try it is missing itself
)

// Check is one thing that tcpbox needs or uses.
type Check struct {
	ID    string `json:"id"`    // stable, such as "user-namespaces"
	Name  string `json:"name"`  // for people
	State State  `json:"state"` // see State
	Found string `json:"found"` // what there is here
	Cost  string `json:"cost"`  // what does not work; empty if OK
	Mend  string `json:"mend"`  // the command that mends it, or what to do; empty if there is nothing
}

// Verdict is what came of starting a sandbox.
type Verdict struct {
	Works bool   `json:"works"`
	Error string `json:"error"` // what the start said; empty if it works
	Hint  string `json:"hint"`  // the next step that came with the error, or empty
}

// Report is everything that was found. Its JSON form is stable: fields are
// added, never changed.
type Report struct {
	Version int     `json:"v"` // 1
	Kernel  string  `json:"kernel"`
	UID     int     `json:"uid"`
	Run     Verdict `json:"run"`
	Checks  []Check `json:"checks"`
}

// Options say how to examine.
type Options struct {
	// Probe are the arguments, the zeroth included, with which this program,
	// executed again, calls Probe.
	Probe []string

	// Ready is what the program makes sure of before it starts a sandbox, or
	// nil. A lack of open files is an error that matches EMFILE.
	Ready func() error
}

// patience bounds each of the things that are tried.
const patience = 60 * time.Second

// Examine tries everything. It leaves nothing behind, and sends no packet.
func Examine(ctx context.Context, o Options) Report {
	var unready error
	if o.Ready != nil {
		unready = o.Ready() // first, as gather leaves descriptors of the runtime's open
	}
	f := gather(ctx, o)
	if f.run = unready; f.run == nil {
		f.run = tryRunAfter(ctx, &f)
	}
	return explain(f)
}
