package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"tcpbox"
)

// talk is a program of the guest, as the runner speaks with it.
type talk struct {
	steps   *os.File // to the program
	answers *os.File // from the program
	decoder *json.Decoder
	command *tcpbox.Command // nil: it is the guest itself
}

// newTalk makes the pipes of a program. Its own ends are the caller's to close.
func newTalk() (t *talk, in, out *os.File, err error) {
	t = &talk{}
	if in, t.steps, err = os.Pipe(); err != nil {
		return nil, nil, nil, fmt.Errorf("lab: %w", err)
	}
	if t.answers, out, err = os.Pipe(); err != nil {
		in.Close()
		t.steps.Close()
		return nil, nil, nil, fmt.Errorf("lab: %w", err)
	}
	t.decoder = json.NewDecoder(t.answers)
	return t, in, out, nil
}

// ask has the program do a step.
func (t *talk) ask(s *Step) (Figures, error) {
	if err := json.NewEncoder(t.steps).Encode(s); err != nil {
		return nil, fmt.Errorf("lab: tell the guest: %w", err)
	}
	var a answer
	if err := t.decoder.Decode(&a); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the guest ended")
		}
		return nil, fmt.Errorf("lab: hear the guest: %w", err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	if a.Figures == nil {
		a.Figures = Figures{}
	}
	return a.Figures, nil
}

func (t *talk) close() error { return errors.Join(t.steps.Close(), t.answers.Close()) }

// firstProgram is the name of the guest's first program in the names of figures.
const firstProgram = "first"

// program returns a program of the guest, and starts it if it is its first step.
func (s *sandbox) program(ctx context.Context, name string) (*talk, error) {
	if name == "" || name == firstProgram {
		return s.first, nil
	}
	if t := s.programs[name]; t != nil {
		return t, nil
	}
	t, in, out, err := newTalk()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	defer out.Close()
	t.command, err = s.box.Exec(ctx, tcpbox.ExecConfig{Args: s.args, Stdin: in, Stdout: out, Stderr: s.stderr})
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	s.programs[name] = t
	return t, nil
}

// pid is the process id of a program of the guest, 0 if it does not run.
func (s *sandbox) pid(name string) int {
	if name == firstProgram {
		return s.box.Inspect().GuestPID
	}
	if t := s.programs[name]; t != nil {
		return t.command.PID()
	}
	return 0
}

// stop kills a program of the guest and waits for its end.
func (s *sandbox) stop(name string) error {
	t := s.programs[name]
	if t == nil {
		return fmt.Errorf("no program %q runs in the guest", name)
	}
	if err := t.command.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_, err := t.command.Wait()
	delete(s.programs, name)
	return errors.Join(err, t.close())
}

// command runs a program of the user's in the sandbox.
func (s *sandbox) command(ctx context.Context, c *Command) (Figures, error) {
	cmd, err := s.box.Exec(ctx, tcpbox.ExecConfig{Args: c.Args, Env: s.peerEnv(), Stdout: s.stderr, Stderr: s.stderr})
	if err != nil {
		return nil, err
	}
	if c.Stays != "" {
		return s.listens(ctx, c, cmd)
	}
	status, err := cmd.Wait()
	if err != nil {
		return nil, err
	}
	f := Figures{"exit-status": status.ExitCode()}
	if status.ExitCode() == 0 {
		f["ok"] = 1
	}
	return f, nil
}

// peerEnv are variables that tell where the hosts inside the stack are, beside
// their names: SERVER_ADDR=198.18.0.16:80.
func (s *sandbox) peerEnv() (env []string) {
	for _, p := range s.box.Inspect().Peers {
		name := strings.Map(func(r rune) rune {
			if r == '-' || r == '.' {
				return '_'
			}
			return unicode.ToUpper(r)
		}, p.Name)
		env = append(env, fmt.Sprintf("%s_ADDR=%v", name, netip.AddrPortFrom(p.Addresses[0], p.Port)))
	}
	return env
}

// listens waits until a program of the user's listens on its port.
func (s *sandbox) listens(ctx context.Context, c *Command, cmd *tcpbox.Command) (Figures, error) {
	port, err := portOf(c.Stays)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		n := snapshot{s: s}
		if err := n.dump(); err != nil {
			return nil, err
		}
		if n.listens(port) {
			return Figures{"ok": 1}, nil
		}
		select {
		case <-cmd.Done():
			if daemon := (snapshot{s: s}); daemon.dump() == nil && daemon.listens(port) {
				return Figures{"ok": 1}, nil // it has gone into the background
			}
			status, err := cmd.Wait()
			return nil, errors.Join(fmt.Errorf("%q ended with status %d and does not listen on port %d", c.Args[0], status.Code, port), err)
		case <-ctx.Done():
			return nil, fmt.Errorf("%q does not listen on port %d", c.Args[0], port)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
