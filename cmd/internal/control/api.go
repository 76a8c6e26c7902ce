package control

import (
	"context"
	"time"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// Version is the version of the API: it stands in every path and in every
// answer, and a change that a client could stumble over makes a new one.
const Version = 1

// Box is what a Server serves: a running sandbox.
type Box interface {
	Inspect() tcpbox.Info
	Stop(ctx context.Context, grace time.Duration) error
	Publish(ctx context.Context, p tcpbox.Publish) ([]tcpbox.PortInfo, error)
	Unpublish(p tcpbox.Publish) ([]tcpbox.PortInfo, error)
	Exec(ctx context.Context, cfg tcpbox.ExecConfig) (*tcpbox.Command, error)
	Follow(opt tcpbox.FollowOptions) (*tcpbox.Follower, error)
	Counts() tcpbox.Counts
	Settings() tcpbox.Settings
	Amend(change func(tcpbox.Settings) tcpbox.Settings) ([]knob.Change, error)
	Faults() []tcpbox.FaultRule
	AddFault(f policy.Fault) (int, error)
	RemoveFault(id int) error
	ConnDo(conn tcpstate.Conn, verb tcpbox.ConnVerb) error
	Segments(conn tcpstate.Conn) ([]statelog.Record, []statelog.Segment, error)
}

var _ Box = (*tcpbox.Sandbox)(nil)

// Inspection is the answer to GET /v1/inspect.
type Inspection struct {
	V int `json:"v"`
	tcpbox.Info
}

// StopRequest is the body of POST /v1/stop.
type StopRequest struct {
	// GraceMilliseconds is how long the guest may take between TERM and KILL.
	GraceMilliseconds int64 `json:"grace_ms"`
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	V     int    `json:"v"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}
