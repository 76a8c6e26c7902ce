package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
)

// Exit statuses of tcpbox itself. A guest's own status passes through.
const (
	exitUsage    = 2
	exitTimeout  = 124
	exitInternal = 125
)

// usageError is wrong input: nothing was started.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

func usagef(hint, format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), hint: hint}
}

// hinted is a failure of tcpbox with a next step.
func hinted(text, hint string) error { return &failure{text: text, hint: hint} }

type failure struct {
	text, hint string
	cause      error // or nil
}

func (e *failure) Error() string { return e.text }

func (e *failure) Unwrap() error { return e.cause }

// clientError is a failure of the small client: not of tcpbox, but of what it
// was to fetch.
type clientError struct{ error }

func (e *clientError) Unwrap() error { return e.error }

// exitStatus ends tcpbox with a status and without a word.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report prints an error and its hint and returns the exit status.
func report(w io.Writer, err error) int {
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	for _, e := range flatten(err) {
		fmt.Fprintf(w, "tcpbox: error: %s\n", oneLine(shorten(textOf(e))))
		hint := hintOf(e)
		if hint == "" && statusOf(err) == exitUsage {
			hint = `see "tcpbox help run"`
		}
		if hint != "" {
			fmt.Fprintf(w, "tcpbox: hint: %s\n", oneLine(shorten(hint)))
		}
	}
	var crash *tcpbox.PanicError
	if errors.As(err, &crash) {
		fmt.Fprintf(w, "\n%s", crash.Stack)
	}
	return statusOf(err)
}

// flatten takes joined errors apart: each fault is a line of its own.
func flatten(err error) []error {
	switch e := err.(type) { //nolint:errorlint // each layer is taken off by itself
	case interface{ Unwrap() []error }:
		var all []error
		for _, inner := range e.Unwrap() {
			all = append(all, flatten(inner)...)
		}
		return all
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			if _, joined := inner.(interface{ Unwrap() []error }); joined {
				return flatten(inner)
			}
		}
	}
	return []error{err}
}

// textOf is what an error says. Of a wrong configuration the operation is not
// worth a word.
func textOf(err error) string {
	var launch *tcpbox.LaunchError
	if errors.As(err, &launch) && launch.Op == tcpbox.OpConfiguration {
		err = launch.Err
	}
	return strip(err.Error())
}

// strip takes away the names of packages that front an error: the person at
// the terminal has not asked where in tcpbox it happened.
func strip(text string) string {
	for _, p := range []string{"tcpbox: ", "guest: ", "netns: ", "policy: ", "knob: ", "peer: ", "dns: ", "control: ", "stack: ", "tun: ", "upstream: ", "lab: "} {
		text = strings.TrimPrefix(text, p)
	}
	return text
}

// Words and quoted values that are longer than a path of everyday length are
// cut to what is enough to know them by.
const (
	longestWord = 200
	shortWord   = 80
)

var long = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[^\s"]+`)

// shorten cuts the long words and quoted values of a text.
func shorten(text string) string {
	return long.ReplaceAllStringFunc(text, func(word string) string {
		if len(word) <= longestWord {
			return word
		}
		head, end := word[:shortWord], ""
		if word[0] == '"' {
			end = `"`
			// Not in the middle of what an escape stands for.
			if i := strings.LastIndexByte(head, '\\'); i >= shortWord-10 {
				head = strings.TrimRight(head[:i], `\`)
			}
		}
		return strings.ToValidUTF8(head, "") + "…" + end
	})
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

// hintOf finds the next step in an error.
func hintOf(err error) string {
	var usage *usageError
	var launch *tcpbox.LaunchError
	var rule *policy.ParseError
	var setting *knob.Error
	var crash *tcpbox.PanicError
	var failed *failure
	var remote *control.RemoteError
	var attach *tcpbox.AttachError
	var port *tcpbox.PublishError
	var fault *document.Fault
	switch {
	case errors.As(err, &crash):
		return "this is a defect of tcpbox; please report it with what follows. The sandbox was closed"
	case errors.As(err, &usage):
		return usage.hint
	case errors.As(err, &launch):
		return launch.Hint
	case errors.As(err, &failed):
		return failed.hint
	case errors.As(err, &attach):
		return attach.Hint
	case errors.Is(err, tcpbox.ErrNoGuest):
		return `start it in the namespace: "nsenter -t PID -U -n --preserve-credentials -- COMMAND"; see "tcpbox help attach"`
	case errors.Is(err, control.ErrUnready):
		return "try again in a moment"
	case errors.Is(err, control.ErrRefused):
		return "ask from outside the namespace, where the sandbox was started; outside, try again"
	case errors.Is(err, control.ErrInside):
		return "ask outside, where the sandbox was started"
	case errors.As(err, &remote):
		return remote.Hint
	case errors.As(err, &rule):
		return rule.Hint
	case errors.As(err, &setting):
		return setting.Hint
	case errors.As(err, &fault):
		return fault.Hint
	case errors.As(err, &port):
		return port.Hint
	}
	return ""
}

func statusOf(err error) int {
	var usage *usageError
	var exec *tcpbox.ExecError
	var rule *policy.ParseError
	var setting *knob.Error
	var config *tcpbox.ConfigError
	var launch *tcpbox.LaunchError
	var client *clientError
	var remote *control.RemoteError
	var fault *document.Fault
	switch {
	case errors.As(err, &fault), errors.As(err, &usage), errors.As(err, &rule), errors.As(err, &setting), errors.As(err, &config):
		return exitUsage
	case errors.As(err, &launch) && launch.Op == tcpbox.OpConfiguration:
		return exitUsage
	case errors.Is(err, tcpbox.ErrNoNamespace), errors.Is(err, tcpbox.ErrOwnNamespace):
		return exitUsage
	case errors.As(err, &exec):
		return exec.Status()
	case errors.As(err, &remote) && remote.Exit != 0:
		return remote.Exit
	case errors.As(err, &remote) && remote.Status == http.StatusBadRequest:
		return exitUsage // which only the sandbox could see
	case errors.As(err, &client):
		return 1
	}
	return exitInternal
}
