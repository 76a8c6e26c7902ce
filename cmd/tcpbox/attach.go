package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"tcpbox"
)

// attachFlags is what the command line of tcpbox attach says.
type attachFlags struct {
	runFlags
	ready, exit int // descriptors, or -1
}

func attachCommand(streams Streams) *cli.Command {
	f := &attachFlags{ready: -1, exit: -1}
	flags := append(f.serving(), f.words.flag("ready-fd", "ready-fd"), f.words.flag("exit-fd", "exit-fd"))
	return &cli.Command{
		Name:  "attach",
		Usage: "serve a network namespace that is there already",
		Flags: flags,
		Action: func(c *cli.Context) error {
			return attach(f, c.Args().Slice(), streams)
		},
	}
}

func (f *attachFlags) set(flag, value string) (err error) {
	switch flag {
	case "ready-fd":
		f.ready, err = parseDescriptor(value, syscall.O_RDONLY, "writing", "%s>ready")
	case "exit-fd":
		f.exit, err = parseDescriptor(value, syscall.O_WRONLY, "reading", "%s<&0")
	default:
		err = f.runFlags.set(flag, value)
	}
	return err
}

// attach is tcpbox attach: from the command line to the end of the namespace.
func attach(f *attachFlags, args []string, streams Streams) error {
	if err := f.parseWith("attach", f.set); err != nil {
		return err
	}
	cfg := tcpbox.AttachConfig{Config: f.config}
	var err error
	if cfg.PID, cfg.Path, err = parseTarget(args); err != nil {
		return err
	}
	if cfg.Name == "" {
		cfg.Name = tcpbox.NameFor([]string{"attach"})
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if err := roomForABox(); err != nil {
		return err
	}
	// Whoever reads the log or what is said may go away; that does not end tcpbox.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)

	say := newSpeaker(streams.Err, f.quiet)
	log, err := openLog(f.log, cfg.Name, streams.Err, say)
	if err != nil {
		return err
	}
	cfg.OnRecords = log.write
	cfg.OnSegments = log.segments()
	cfg.OnRefused = say.refused
	cfg.OnOutcome = say.outcome
	cfg.OnNote = say.note
	cfg.Log = slog.New(warnings{say})
	err = serveNamespace(cfg, f, say)
	say.summary()
	log.close()
	return err
}

// parseTarget reads what is to be served: a number is a process.
func parseTarget(args []string) (pid int, path string, err error) {
	const example = `for example: tcpbox attach 4711, or tcpbox attach /run/netns/blue`
	if len(args) == 0 || args[0] == "" {
		return 0, "", usagef(example, "no namespace to attach to")
	}
	if len(args) > 1 {
		return 0, "", usagef("flags come before it; "+example, "attach takes one process or path")
	}
	word := args[0]
	if strings.Trim(word, "0123456789") == "" {
		if pid, err = strconv.Atoi(word); err != nil || pid < 1 || pid > 1<<30 {
			return 0, "", usagef(example, "%s is not the number of a process", word)
		}
		return pid, "", nil
	}
	// What "ip netns" calls by its name alone has a path.
	named := filepath.Join("/run/netns", word)
	if _, err := os.Lstat(word); errors.Is(err, os.ErrNotExist) && !strings.Contains(word, "/") {
		if _, err := os.Lstat(named); err == nil {
			return 0, "", usagef(fmt.Sprintf("did you mean %s?", printable(named)), "%q is neither a process nor a path", word)
		}
		return 0, "", usagef(example, "%q is neither a process nor a path", word)
	}
	path, err = filepath.Abs(word)
	return 0, path, err
}

// serveNamespace attaches, and returns when the namespace or the serving of it
// has ended.
func serveNamespace(cfg tcpbox.AttachConfig, f *attachFlags, say *speaker) error {
	door, err := takeName(&cfg.Config, say)
	if err != nil {
		return err
	}
	defer door.close()
	// From here on a signal ends the serving in good order, or has the policy
	// read again.
	ended, again := make(chan os.Signal, 1), f.reloads()
	notifyUnignored(ended, syscall.SIGINT, syscall.SIGTERM)
	if again == nil {
		notifyUnignored(ended, syscall.SIGHUP)
	} else {
		signal.Notify(again, syscall.SIGHUP)
		defer signal.Stop(again)
	}
	defer signal.Stop(ended)

	limit := limitTime(f.timeout, say)
	defer limit.unwake()
	box, err := tcpbox.Attach(context.Background(), cfg)
	if err != nil {
		return err
	}
	door.serve(box)
	in := box.Inspect()
	say.line(fmt.Sprintf("%s serves %s: address %s, gateway %s, nameserver %s",
		in.Name, in.Target, join(in.Addresses), join(in.Gateways), in.Gateways[0]))
	say.chosen(cfg.Publish, in.Ports)
	if f.ready >= 0 {
		tellReady(f.ready, in.Name, say)
	}
	hup := func() { say.line("HUP ends the serving: there is no --policy that could be read again") }
	unwatched := onRequest(box, ended, again, hup, func() { f.reload(box, say) }, f.exit)
	timedOut := limit.endAfter(box, box.Signal)
	_, err = box.Wait()
	expired := timedOut()
	unwatched()
	switch {
	case err != nil:
		return err
	case expired:
		return exitStatus(exitTimeout)
	}
	return nil
}

// notifyUnignored asks for signals, but not for those that the caller ignores, as
// nohup(1) does.
func notifyUnignored(c chan<- os.Signal, signals ...os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// onRequest ends the serving on a signal, and at the end of file of the
// descriptor exit unless that is -1; a hangup among the signals it tells hup. It
// calls reload for each of again. The
// function it returns stops that.
func onRequest(box *tcpbox.Sandbox, signals, again <-chan os.Signal, hup, reload func(), exit int) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	request := func() { _ = box.Signal(syscall.SIGTERM) } // it takes it
	running.Go(func() {
		for {
			select {
			case sig := <-signals:
				if sig == syscall.SIGHUP {
					hup()
				}
				request()
			case <-again:
				reload()
			case <-done:
				return
			}
		}
	})
	stopExit := func() {}
	if exit >= 0 {
		stopExit = atEOF(exit, request)
	}
	return func() {
		stopExit()
		close(done)
		running.Wait()
	}
}
