package lab

import "time"

// Step is one thing that is done. Exactly one of Connect, Fetch and Sim is set:
// Sim in the labs that run in virtual time, the others in those that do not.
type Step struct {
	Name string `json:"name"` // unique in its row; begins the names of its figures
	When When   `json:"when,omitempty"`

	// Quick demands that the step is done before the kernel's reuse delay can
	// have passed since the row began, or since the last step that waited for
	// it. A row that is late is begun again.
	Quick bool `json:"quick,omitempty"`

	Connect *Connect `json:"connect,omitempty"`
	Fetch   *Fetch   `json:"fetch,omitempty"`
	Sim     *Sim     `json:"sim,omitempty"`

	// Expect are the step's figures: all of them, and no other, but for those
	// that stand in Variant.Within.
	Expect Figures `json:"expect"`
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

// maxStep bounds a step. Only a step that hangs meets it.
const maxStep = time.Minute
