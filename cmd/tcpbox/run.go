package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
)

func runCommand(streams Streams) *cli.Command {
	f := &runFlags{}
	return &cli.Command{
		Name:  "run",
		Usage: "run a command in a new sandbox",
		Flags: f.list(),
		Action: func(c *cli.Context) error {
			return run(f, c.Args().Slice(), streams)
		},
	}
}

// run is tcpbox run: from the command line to the guest's exit status.
func run(f *runFlags, args []string, streams Streams) error {
	if err := f.parse(); err != nil {
		return err
	}
	if len(args) == 0 || args[0] == "" {
		return usagef(`for example: tcpbox run -- curl https://example.com`, "no command to run")
	}
	cfg := f.config
	cfg.Args = ownProgram(args)
	cfg.Stdin, cfg.Stdout, cfg.Stderr = streams.In, streams.Out, streams.Err
	if cfg.Name == "" {
		cfg.Name = tcpbox.NameFor(args)
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if err := checkLogIsOurs(f.log.to, cfg.KeepFDs); err != nil {
		return err
	}
	if err := roomForABox(); err != nil {
		return err
	}
	// Whoever reads the log or what is said may go away; that ends neither
	// tcpbox nor, by an ignored signal that it would inherit, the guest.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)

	say := newSpeaker(streams.Err, f.quiet)
	log, err := openLog(f.log, cfg.Name, streams.Err, say)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 && cfg.User == nil {
		say.warn("the guest runs as uid 0: it can write root's files; --user UID[:GID] runs it as someone else")
	}
	cfg.OnRecords = log.write
	cfg.OnSegments = log.segments()
	cfg.OnRefused = say.refused
	cfg.OnOutcome = say.outcome
	cfg.OnNote = say.note
	cfg.Log = slog.New(warnings{say})
	err = runBox(cfg, f.timeout, say)
	say.summary()
	log.close()
	return err
}

// runBox runs the guest to its end, and returns its exit status as an error.
func runBox(cfg tcpbox.Config, timeout time.Duration, say *speaker) error {
	door, err := openDoor(&cfg, say)
	if err != nil {
		return err
	}
	defer door.close()
	cfg.ForwardSignals = true
	limit := limitTime(timeout, say)
	defer limit.unwake()
	box, err := tcpbox.Start(context.Background(), cfg)
	if err != nil {
		return err
	}
	say.chosen(cfg.Publish, box.Inspect().Ports)
	door.serve(box)
	timedOut := limit.endAfter(box, ender(box, cfg.Linger))
	unattended := attendLingering(box, say)
	uncut := cutOnSignal(box)
	status, err := box.Wait()
	uncut()
	unattended()
	expired := timedOut()
	switch {
	case err != nil:
		return err
	case expired:
		return exitStatus(exitTimeout)
	}
	return asExit(status)
}

// cutOnSignal lets a signal end the delivery of what the guest has left, when
// there is no guest any more to forward it to. The signals stay caught after
// that: the status is the guest's, however often one is sent.
func cutOnSignal(box *tcpbox.Sandbox) (stop func()) {
	signals := make(chan os.Signal, 1)
	notifyUnignored(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		select {
		case <-box.Exited():
		case <-done:
			return
		}
		select {
		case <-signals: // that was for the guest
		default:
		}
		select {
		case <-signals:
			_ = box.Close() // Wait returns its error
		case <-done:
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// ownProgram makes "tcpbox" as the guest's program mean this very executable.
func ownProgram(args []string) []string {
	if args[0] != "tcpbox" {
		return args
	}
	self, err := os.Executable()
	if err != nil {
		return args
	}
	return append([]string{self}, args[1:]...)
}

// killAfter is how long a guest that was told to end may take to do so.
const killAfter = 5 * time.Second

// A timeLimit is when a guest's time is up. The zero timeLimit never is.
type timeLimit struct {
	end    time.Time
	unwake func()
}

// limitTime begins to count. It comes before the guest, which may stop itself at
// once, and tcpbox with it: then nobody would be left to ask to be woken.
func limitTime(d time.Duration, say *speaker) timeLimit {
	if d == 0 {
		return timeLimit{unwake: func() {}}
	}
	l := timeLimit{end: time.Now().Add(d)}
	var err error
	if l.unwake, err = wakeAfter(d); err != nil {
		l.unwake = func() {}
		say.warn(fmt.Sprintf("--timeout will not end a command that has stopped itself: %v", err))
	}
	return l
}

// endAfter ends the guest when its time is up: TERM, and KILL if that does not
// help, also when the guest has stopped itself. The function it returns stops
// that, and reports whether it happened to the guest: what lingers is only
// ended.
func (l timeLimit) endAfter(box *tcpbox.Sandbox, end func(syscall.Signal) error) (timedOut func() bool) {
	if l.end.IsZero() {
		return func() bool { return false }
	}
	kill := time.NewTimer(time.Until(l.end) + killAfter)
	term := time.NewTimer(time.Until(l.end))
	done := make(chan struct{})
	result := make(chan bool, 1)
	go func() {
		hit := false
		for {
			select {
			case <-term.C:
				hit = !cutDelivery(box) && !lingers(box)
				_ = end(syscall.SIGTERM)
			case <-kill.C:
				hit = !cutDelivery(box) && !lingers(box) || hit
				_ = end(syscall.SIGKILL)
			case <-done:
				result <- hit
				return
			}
		}
	}()
	return func() bool {
		l.unwake()
		term.Stop()
		kill.Stop()
		close(done)
		return <-result
	}
}

// cutDelivery ends the delivery of what the guest has left, and reports whether
// there was no guest any more.
func cutDelivery(box *tcpbox.Sandbox) bool {
	select {
	case <-box.Exited():
		_ = box.Close() // Wait returns its error
		return true
	default:
		return false
	}
}

// asExit turns the guest's status into tcpbox's own.
func asExit(s tcpbox.Status) error {
	if code := s.ExitCode(); code != 0 {
		return exitStatus(code)
	}
	return nil
}
