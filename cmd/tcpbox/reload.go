package main

import (
	"errors"
	"fmt"
	"os"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/policy/document"
)

// reload reads the policy document again and puts it in force, under the flags as
// they were given. A document with faults leaves the old policy in force.
func (f *runFlags) reload(box *tcpbox.Sandbox, say *speaker) {
	d, err := f.readAgain()
	if err == nil && (d.DNS.Mode != f.fromFile.DNS.Mode || fmt.Sprint(d.DNS) != fmt.Sprint(f.fromFile.DNS)) {
		err = errors.New("dns cannot be changed while it serves; attach again for that")
	}
	if err == nil {
		var before, now tcpbox.Settings
		changes, setErr := box.Amend(func(was tcpbox.Settings) tcpbox.Settings {
			before, now = was, control.SettingsOf(f.over.Over(d))
			return now
		})
		if err = setErr; err == nil {
			say.line(fmt.Sprintf("the policy of %s is in force", printable(f.policyFile)))
			for _, c := range append(control.ChangesOf(changes), control.OtherChanges(before, now)...) {
				say.line(c.Line(arrow()))
			}
			for _, n := range box.Settings().Notes() {
				if control.ChangedIn(changes)(n.Key) {
					say.note(n)
				}
			}
			return
		}
	}
	for _, fault := range flatten(err) {
		text := textOf(fault)
		if hint := hintOf(fault); hint != "" {
			text += "; " + hint
		}
		say.lost("the old policy stays in force: " + oneLine(shorten(text)))
	}
}

// readAgain is readPolicy for a document that was read once. A pipe has nothing more
// to say, and a FIFO would hold up every later reload until somebody writes to it.
func (f *runFlags) readAgain() (document.Document, error) {
	if st, err := os.Stat(f.policyFile); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		return document.Document{}, usagef("put the document there and send HUP again", "policy %q: only a regular file is read again", f.policyFile)
	}
	return readPolicy(f.policyFile)
}

// reloads is told when the document is to be read again; nil if there is none.
func (f *runFlags) reloads() chan os.Signal {
	if f.policyFile == "" {
		return nil
	}
	return make(chan os.Signal, 1)
}
