package main

import (
	"errors"
	"fmt"

	"tcpbox"
	"tcpbox/cmd/internal/control"
)

// A door is the control socket of a sandbox that this process runs. Without a
// runtime directory there is none: the sandbox runs all the same, and says that
// no one can reach it.
type door struct {
	server *control.Server
	say    *speaker
}

// openDoor takes the sandbox's name, before anything is started, and hides the
// directory of all control sockets from the guest.
func openDoor(cfg *tcpbox.Config, say *speaker) (*door, error) {
	d, err := takeName(cfg, say)
	if err == nil && d.server != nil {
		cfg.Hide = append(cfg.Hide, d.server.Hide())
	}
	return d, err
}

// takeName is openDoor where there is no guest to hide anything from.
func takeName(cfg *tcpbox.Config, say *speaker) (*door, error) {
	d := &door{say: say}
	server, err := control.Reserve(cfg.Name, cfg.Log)
	switch {
	case errors.Is(err, control.ErrExists):
		return nil, usagef(`give another --name, or see "tcpbox ls"`, "%v", err)
	case err != nil:
		say.warn(fmt.Sprintf("%s; ls, inspect and stop will not find this sandbox", strip(err.Error())))
		return d, nil
	}
	d.server = server
	return d, nil
}

func (d *door) serve(box *tcpbox.Sandbox) {
	if d.server == nil {
		return
	}
	if err := d.server.Serve(box); err != nil {
		d.say.warn(strip(err.Error()))
	}
}

func (d *door) close() {
	if d.server == nil {
		return
	}
	if err := d.server.Close(); err != nil {
		d.say.warn(strip(err.Error()))
	}
}
