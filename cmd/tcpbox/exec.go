package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/cmd/internal/control"
)

// execFlags is what the command line of tcpbox exec says.
type execFlags struct {
	words      words
	tty, noTTY bool
	config     tcpbox.ExecConfig
}

func execCommand(streams Streams) *cli.Command {
	f := &execFlags{}
	return &cli.Command{
		Name: "exec", Usage: "run a further command in a sandbox",
		Flags: []cli.Flag{
			f.words.flag("env", "env"), f.words.flag("e", "env"),
			f.words.flag("workdir", "workdir"), f.words.flag("w", "workdir"),
			&cli.BoolFlag{Name: "tty", Destination: &f.tty}, &cli.BoolFlag{Name: "t", Destination: &f.tty},
			&cli.BoolFlag{Name: "no-tty", Destination: &f.noTTY}, &cli.BoolFlag{Name: "T", Destination: &f.noTTY},
		},
		Action: func(c *cli.Context) error { return f.run(c.Context, c.Args().Slice(), streams) },
	}
}

// run is tcpbox exec: from the command line to the command's exit status.
func (f *execFlags) run(ctx context.Context, args []string, streams Streams) error {
	name, err := f.parse(args, streams)
	if err != nil {
		return err
	}
	client, err := connect(name)
	if err != nil {
		return err
	}
	signals := execSignals()
	cmd, err := client.Exec(ctx, f.config)
	if err != nil {
		return err
	}
	defer cmd.Close()
	var face *face
	if f.config.Terminal {
		defer cmd.Terminal().Close()
		if face, err = showTerminal(cmd.Terminal(), streams); err != nil {
			return err
		}
	}
	forwardTo(cmd, signals, face)
	face.close()
	status, err := cmd.Wait()
	switch {
	case errors.Is(err, tcpbox.ErrEnded):
		fmt.Fprintf(streams.Err, "tcpbox: sandbox %q has ended, and the command with it\n", name)
	case err != nil:
		return err
	}
	return asExit(status)
}

// parse turns the command line into the configuration, and returns the name of
// the sandbox.
func (f *execFlags) parse(args []string, streams Streams) (name string, err error) {
	const example = "for example: tcpbox exec web -- sh"
	var errs []error
	for _, w := range f.words.all {
		switch w.flag {
		case "env":
			err = f.addEnv(w.value)
		case "workdir":
			f.config.Dir, err = parseDir(w.value)
		}
		if err != nil {
			errs = append(errs, flagError("exec", w, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	if len(args) == 0 || args[0] == "" {
		return "", usagef(example, "exec takes the name of a sandbox")
	}
	name, args = args[0], args[1:]
	switch {
	case len(args) > 0 && args[0] == "--":
		args = args[1:]
	case len(args) > 0 && strings.HasPrefix(args[0], "-"):
		return "", usagef("flags come before the name of the sandbox: tcpbox exec [FLAGS] NAME -- COMMAND", "%s comes too late", oneWord(args[0]))
	}
	if len(args) == 0 || args[0] == "" {
		return "", usagef(example, "no command to run")
	}
	f.config.Args = ownProgram(args)
	return name, f.chooseTerminal(streams)
}

// addEnv adds NAME=VALUE, or NAME with the value that it has here, as docker
// does.
func (f *execFlags) addEnv(text string) error {
	set, err := addEnv(nil, text)
	if err != nil {
		return err
	}
	if len(set) == 0 {
		value, ok := os.LookupEnv(text)
		if !ok {
			return nil
		}
		set = []string{text + "=" + value}
	}
	f.config.Env = append(f.config.Env, set...)
	return nil
}

// chooseTerminal decides whether the command gets a terminal of its own, or our
// descriptors. Who sends the output elsewhere wants it as the command writes
// it.
func (f *execFlags) chooseTerminal(streams Streams) error {
	c := &f.config
	switch {
	case f.tty && f.noTTY:
		return usagef("leave out one of them", "--tty and --no-tty exclude each other")
	case f.tty && !isTerminal(streams.In):
		return usagef("leave --tty out", "--tty needs a terminal, and standard input is none")
	case f.tty, !f.noTTY && isTerminal(streams.In) && isTerminal(streams.Out):
		c.Terminal = true
	default:
		c.Stdin, c.Stdout, c.Stderr = streams.In, streams.Out, streams.Err
		return nil
	}
	if size, err := unix.IoctlGetWinsize(int(streams.In.Fd()), unix.TIOCGWINSZ); err == nil {
		c.Rows, c.Cols = size.Row, size.Col
	}
	// The guest's variables know another terminal.
	if term := os.Getenv("TERM"); term != "" {
		c.Env = append([]string{"TERM=" + term}, c.Env...)
	}
	return nil
}

// execSignals begins to take in signals, except those that are ignored, as
// after nohup.
func execSignals() <-chan os.Signal {
	ch := make(chan os.Signal, 64)
	notifyUnignored(
		ch, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1,
		unix.SIGUSR2, unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH,
	)
	return ch
}

// forwardTo passes signals on until the command has ended.
func forwardTo(cmd *control.Command, signals <-chan os.Signal, face *face) {
	for {
		select {
		case <-cmd.Done():
			return
		case got := <-signals:
			switch sig := got.(syscall.Signal); sig {
			case unix.SIGWINCH:
				face.resize()
			case unix.SIGTSTP:
				stopBoth(cmd, face)
			default:
				_ = cmd.Signal(sig) // an error: the connection is gone, which Wait tells
			}
		}
	}
}

// stopBoth stops this process, and with it a command that has no terminal of
// its own, until the shell continues both. STOP and not TSTP, which the kernel
// ignores in a session that nobody could continue.
func stopBoth(cmd *control.Command, face *face) {
	if face == nil {
		_ = cmd.Signal(unix.SIGSTOP)
		awaitStop(cmd)
	}
	face.leave()
	// Sent to this very thread, it stops it before the next line.
	runtime.LockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
	runtime.UnlockOSThread()
	face.enter()
	// SIGCONT, which has ended the stop, is among the signals.
}

// awaitStop waits until the command has stopped, or ended: it reads from the
// terminal that the shell is about to read from. Where /proc does not show it,
// nobody knows.
func awaitStop(cmd *control.Command) {
	const patience = 2 * time.Second // of a command in a system call that no signal interrupts
	stat := "/proc/" + strconv.Itoa(cmd.PID()) + "/stat"
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		select {
		case <-cmd.Done():
			return
		default:
		}
		data, err := os.ReadFile(stat)
		// The name before the state may hold anything.
		if i := bytes.LastIndex(data, []byte(") ")); err != nil || i < 0 || bytes.HasPrefix(data[i+2:], []byte("T")) {
			return
		}
	}
}
