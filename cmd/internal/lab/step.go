package lab

import "time"

// Step is one thing that is done. Exactly one of its kinds is set: Sim in the
// labs that run in virtual time, another in those that do not.
type Step struct {
	Name string `json:"name"` // unique in its row; begins the names of its figures
	When When   `json:"when,omitempty"`

	// In is who does it: empty is the guest's first program, InStack the stack,
	// InHost the host of a lab that is OnHost, any other name a further program in the guest, which is started when it has
	// its first step.
	In string `json:"in,omitempty"`

	// Quick demands that the step is done before the kernel's reuse delay can
	// have passed since the row began, or since the last step that waited for
	// it. A row that is late is begun again.
	Quick bool `json:"quick,omitempty"`

	// By demands that the step is done within so many milliseconds of the row's
	// beginning, before something that is not the row's own runs out. A row that is
	// late is begun again. Zero demands nothing.
	By int `json:"by_ms,omitempty"`

	Connect *Connect `json:"connect,omitempty"`
	Fetch   *Fetch   `json:"fetch,omitempty"`
	Sim     *Sim     `json:"sim,omitempty"`
	Listen  *Listen  `json:"listen,omitempty"`
	Accept  *Accept  `json:"accept,omitempty"`
	Open    *Open    `json:"open,omitempty"`
	Act     *Act     `json:"act,omitempty"`
	Wait    *Wait    `json:"wait,omitempty"`
	Command *Command `json:"command,omitempty"`
	Stop    *Stop    `json:"stop,omitempty"`
	Set     *Set     `json:"set,omitempty"`

	// Expect are the step's figures: all of them, and no other, but for those
	// that stand in Variant.Within. With them may stand what is counted when the
	// step is done, by the names in count.go: it has a while to become so. A script
	// has its expectations in itself.
	Expect Figures `json:"expect,omitempty"`

	// Within are figures of the step of which only the bounds are known.
	Within map[string]Range `json:"within,omitempty"`
}

// expected are the figures that the step expects. Of a script every check has to
// hold.
func (s *Step) expected() Figures {
	if s.Sim != nil {
		return Figures{"ok": s.Sim.checks()}
	}
	return s.Expect
}

// When says when a step begins. The kernel's reuse delay is the time that a
// port must have been in TIME-WAIT before net.ipv4.tcp_tw_reuse gives it out
// again: net.ipv4.tcp_tw_reuse_delay, and a second on kernels without that.
type When string

// The times of a step.
const (
	AtOnce     When = ""                  // as soon as the step before is done
	AfterDelay When = "after-reuse-delay" // when the reuse delay has passed since then
)

// Connect makes connections, one after the other.
type Connect struct {
	To    string `json:"to"` // a peer's name and port
	Times int    `json:"times"`
	Close Close  `json:"close"`

	// Say is sent first over each.
	Say string `json:"say,omitempty"`
}

// Close says how a connection ends.
type Close string

// The ways to end a connection.
const (
	// ClientShutdown: the client sends FIN, reads until the server's FIN and
	// then closes: when the next connection begins, this one is in TIME-WAIT,
	// not on its way there.
	ClientShutdown Close = "client-shutdown"

	// ClientClose: the client calls close(2) and begins the next one, as
	// programs do.
	ClientClose Close = "client-close"

	// ServerFirst: the client reads until the server's FIN, then closes.
	ServerFirst Close = "server-first"

	// ClientReset: the client closes with SO_LINGER 0, which sends RST.
	ClientReset Close = "client-reset"
)

// Fetch makes HTTP requests over one connection, which the client closes at
// the end.
type Fetch struct {
	To    string `json:"to"` // a peer's name and port
	Times int    `json:"times"`
}

// InStack is the stack as the one who does a step.
const InStack = "stack"

// InHost is the host as the one who does a step, in labs that are OnHost. It
// serves: Listen, Accept and Act.
const InHost = "host"

// Listen opens a port. In the guest and on the host At is ":80", and in the stack
// the name of a peer and a port that it does not have yet, "server:81".
type Listen struct {
	At string `json:"at"`

	// Backlog is that of listen(2), in the guest alone. Zero is the most that
	// net.core.somaxconn allows.
	Backlog int `json:"backlog,omitempty"`

	// Then accepts each connection and does this to it. Empty accepts none: the
	// queue is left to itself, and to Accept.
	Then Then `json:"then,omitempty"`
}

// Then is what a server does with a connection.
type Then string

// What a server does.
const (
	ThenClose   Then = "close"         // closes it at once, so that the server closes first
	ThenReadEnd Then = "read-then-end" // reads until the client's FIN, and closes
	ThenLeak    Then = "leak"          // reads until the client's FIN, and forgets to close
	ThenHold    Then = "hold"          // reads nothing, and keeps it open
)

// Accept takes connections out of a listener's queue and keeps them under the
// step's name. Its figure is "ok".
type Accept struct {
	At    string `json:"at"` // as in Listen
	Times int    `json:"times"`
}

// Open makes connections and keeps them under the step's name. Its figures are
// those of a Connect, and "pending": those of which nothing had come when the
// time was over.
type Open struct {
	To    string `json:"to"` // a peer's name and port; in the stack ":80", a port of the guest
	Times int    `json:"times"`

	// AtOnce begins them all before the first of them is complete.
	AtOnce bool `json:"at_once,omitempty"`

	// Within is how long to wait for each, in milliseconds. Zero waits for an
	// outcome.
	Within int `json:"within_ms,omitempty"`

	// Keepalive sets SO_KEEPALIVE, in the guest alone.
	Keepalive bool `json:"keepalive,omitempty"`

	// UserTimeout sets TCP_USER_TIMEOUT, in milliseconds, in the guest alone.
	UserTimeout int `json:"user_timeout_ms,omitempty"`
}

// Act does something to the connections that an earlier step of the same program
// has kept. Its figures are "ok" and the names of errnos, a connection each, and
// "bytes" where bytes are counted.
type Act struct {
	On    string `json:"on"` // the step that keeps them
	Do    Do     `json:"do"`
	Bytes int    `json:"bytes,omitempty"` // to each connection

	// Only is how many of the connections, the first ones. Zero is all.
	Only int `json:"only,omitempty"`
}

// Do is what can be done to a connection.
type Do string

// What can be done.
const (
	DoShutdown Do = "shutdown" // sends FIN; reading goes on
	DoClose    Do = "close"    // close(2)
	DoReset    Do = "reset"    // closes with SO_LINGER 0
	DoWrite    Do = "write"    // writes Bytes
	DoFill     Do = "fill"     // writes until no more is taken; figure "bytes"
	DoRead     Do = "read"     // reads Bytes
	DoReadEnd  Do = "read-end" // reads until FIN; with RST it is ECONNRESET, with silence EAGAIN
)

// Wait waits. Its figures are what is expected of it, counted; and where the
// step's Within names "ms", how long it took, in milliseconds.
type Wait struct {
	// For is a time in milliseconds that passes. Zero only waits for the figures
	// to become what is expected.
	For int `json:"for_ms,omitempty"`

	// Until is how long the figures have to become what is expected, in
	// milliseconds, where that may take longer than usual.
	Until int `json:"until_ms,omitempty"`
}

// Command runs a program in the sandbox, and waits for its end. Its figure is
// "exit-status", 128+n for one that signal n has ended; "ok" is 1 if that is 0.
type Command struct {
	Args []string `json:"args"`

	// Stays starts it and goes on when the port listens, ":80": a server.
	Stays string `json:"stays,omitempty"`
}

// Stop kills a program of the guest.
type Stop struct {
	Program string `json:"program"`
}

// Set changes settings and faults while the row runs.
type Set struct {
	Settings []Setting `json:"settings,omitempty"`

	// NoFaults takes away those that there are. Faults are added then.
	NoFaults bool     `json:"no_faults,omitempty"`
	Faults   []string `json:"faults,omitempty"`
}

// kinds are what the step does: one, in a step without faults.
func (s *Step) kinds() (all []string) {
	for _, k := range []struct {
		is   bool
		name string
	}{
		{s.Connect != nil, "connect"},
		{s.Fetch != nil, "fetch"},
		{s.Sim != nil, "sim"},
		{s.Listen != nil, "listen"},
		{s.Accept != nil, "accept"},
		{s.Open != nil, "open"},
		{s.Act != nil, "act"},
		{s.Wait != nil, "wait"},
		{s.Command != nil, "command"},
		{s.Stop != nil, "stop"},
		{s.Set != nil, "set"},
	} {
		if k.is {
			all = append(all, k.name)
		}
	}
	return all
}

// passing reports whether the step leaves nothing behind but TIME-WAIT.
func (s *Step) passing() bool { return s.Connect != nil || s.Fetch != nil }

// passing reports whether all steps of the row are such.
func (v *Variant) passing() bool {
	for i := range v.Steps {
		if !v.Steps[i].passing() {
			return false
		}
	}
	return true
}

// maxStep bounds a step. Only a step that hangs meets it. A command of the
// user's has maxCommand.
const (
	maxStep    = time.Minute
	maxCommand = 10 * time.Minute
)
