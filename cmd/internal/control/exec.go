package control

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"tcpbox"
)

// To exec is a request that becomes another protocol (RFC 9110, section 7.8),
// for HTTP passes no descriptors. What follows the answer 101 are lines of JSON
// on the same connection:
//
//	client                                server
//	   ── POST /v1/exec, Upgrade ──────────▶
//	   ◀───────────────────────────── 101 ──
//	   ── start + descriptors 0, 1, 2 ─────▶   none with a terminal
//	   ◀────────── started + the terminal ──   or failed, which is the last
//	   ── signal ──────────────────────────▶   any number
//	   ◀─────────────────────────── ended ──   the last
//
// The end of the connection is the client's end: the command is hung up.

// upgradeTo is the name of the protocol.
const upgradeTo = "tcpbox-exec"

// maxExecBody bounds the body of POST /v1/exec, in bytes. The kernel executes
// at most 6 MiB of arguments and environment.
const maxExecBody = 16 << 20

// ExecRequest is the body of POST /v1/exec.
type ExecRequest struct {
	Args []Text `json:"args"`

	// Env are variables, NAME=VALUE, that are set beside the guest's.
	Env []Text `json:"env,omitempty"`

	// Dir is the working directory, an absolute path. Empty means the guest's.
	Dir Text `json:"dir,omitempty"`

	// Terminal asks for a terminal of the command's own, of this size; it takes
	// the place of the three descriptors.
	Terminal *Size `json:"terminal,omitempty"`
}

// Size is that of a terminal; zero is unknown.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// newExecRequest is the request for what cfg says.
func newExecRequest(cfg tcpbox.ExecConfig) ExecRequest {
	req := ExecRequest{Args: texts(cfg.Args), Env: texts(cfg.Env), Dir: Text(cfg.Dir)}
	if cfg.Terminal {
		req.Terminal = &Size{cfg.Rows, cfg.Cols}
	}
	return req
}

// config is the inverse of newExecRequest.
func (r ExecRequest) config() tcpbox.ExecConfig {
	cfg := tcpbox.ExecConfig{Args: words(r.Args), Env: words(r.Env), Dir: string(r.Dir)}
	if r.Terminal != nil {
		cfg.Terminal, cfg.Rows, cfg.Cols = true, r.Terminal.Rows, r.Terminal.Cols
	}
	return cfg
}

func (r ExecRequest) check() error {
	if len(r.Args) == 0 || r.Args[0] == "" {
		return errors.New("no program to run")
	}
	for _, v := range r.Env {
		if name, _, ok := strings.Cut(string(v), "="); !ok || name == "" {
			return fmt.Errorf("%.100q is not a variable", string(v))
		}
	}
	return nil
}

// Text is an argument or a variable: any bytes but zero. In JSON it is a string
// if it is UTF-8, and else {"base64": "…"}.
type Text string

// MarshalJSON implements json.Marshaler.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(encoded{base64.StdEncoding.EncodeToString([]byte(t))})
}

type encoded struct {
	Base64 string `json:"base64"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Text) UnmarshalJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("the JSON is not UTF-8")
	}
	var plain string
	if len(data) > 0 && data[0] == '{' {
		var e encoded
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		raw, err := base64.StdEncoding.DecodeString(e.Base64)
		plain = string(raw)
		if err != nil {
			return err
		}
	} else if err := json.Unmarshal(data, &plain); err != nil {
		return err
	}
	if strings.ContainsRune(plain, 0) {
		return fmt.Errorf("%.100q holds a zero byte", plain)
	}
	*t = Text(plain)
	return nil
}

func texts(list []string) []Text {
	out := make([]Text, len(list))
	for i, s := range list {
		out[i] = Text(s)
	}
	return out
}

func words(list []Text) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

// ExecMessage is a line after the answer 101.
type ExecMessage struct {
	Op string `json:"op"`

	Signal int `json:"signal,omitempty"` // of signal; of ended, what killed the command, or 0
	PID    int `json:"pid,omitempty"`    // of started, as the host sees it

	Code         int  `json:"code,omitempty"`          // of ended, what the command gave to exit
	SandboxEnded bool `json:"sandbox_ended,omitempty"` // of ended: it did, and killed the command

	// Of failed: what, the next step, and the exit status that a shell gives.
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint,omitempty"`
	Status int    `json:"status,omitempty"`
}

// What an ExecMessage can be about.
const (
	opStart   = "start"
	opSignal  = "signal"
	opStarted = "started"
	opFailed  = "failed"
	opEnded   = "ended"
)
