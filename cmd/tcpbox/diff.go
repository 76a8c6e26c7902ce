package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/cmd/internal/view"
	"tcpbox/stack/legs"
	"tcpbox/stack/statelog"
)

// diffFlags is what the command line of tcpbox diff says.
type diffFlags struct {
	words    words // of both runs
	a, b     string
	parallel bool
	json     bool
	quiet    bool
	common   tcpbox.Config // what has no words: noIPv6 and the like
}

func diffCommand(streams Streams) *cli.Command {
	f := &diffFlags{}
	return &cli.Command{
		Name:  "diff",
		Usage: "run a command under two settings, and say where the runs part",
		Flags: f.list(),
		Action: func(c *cli.Context) error {
			for _, side := range []string{"a", "b"} {
				if c.IsSet(side) && c.String(side) == "" {
					return usagef("for example: -a fin-timeout=5s, or -a box.yaml", "-%s has no settings", side)
				}
			}
			return diff(f, c.Args().Slice(), streams)
		},
	}
}

func (f *diffFlags) list() []cli.Flag {
	var flags []cli.Flag
	for _, name := range []string{
		"policy", "net", "allow", "deny", "udp-timeout", "dns", "add-host", "peer", "tcp", "sysctl",
		"mtu", "subnet4", "subnet6", "timeout", "hostname", "env", "workdir", "user",
	} {
		flags = append(flags, f.words.flag(name, name))
	}
	for short, name := range map[string]string{"e": "env", "w": "workdir", "u": "user"} {
		flags = append(flags, f.words.flag(short, name))
	}
	return append(flags,
		&cli.StringFlag{Name: "a", Destination: &f.a},
		&cli.StringFlag{Name: "b", Destination: &f.b},
		&cli.BoolFlag{Name: "parallel", Destination: &f.parallel},
		&cli.BoolFlag{Name: "json", Destination: &f.json},
		&cli.BoolFlag{Name: "no-ipv6", Destination: &f.common.NoIPv6},
		&cli.BoolFlag{Name: "root", Destination: &f.common.Root},
		&cli.BoolFlag{Name: "quiet", Destination: &f.quiet},
		&cli.BoolFlag{Name: "q", Destination: &f.quiet},
	)
}

// diff is tcpbox diff: 0 if the runs are the same, 1 if they are not, as of
// diff(1).
func diff(f *diffFlags, args []string, streams Streams) error {
	if len(args) == 0 || args[0] == "" {
		return usagef(`for example: tcpbox diff -a fin-timeout=5s -b fin-timeout=60s -- ./client`, "no command to run")
	}
	if f.a == "" && f.b == "" {
		return usagef(`for example: tcpbox diff -a fin-timeout=5s -b fin-timeout=60s -- ./client`, "there is nothing to compare: -a and -b are missing")
	}
	sides, err := f.sides(args, streams)
	if err != nil {
		return err
	}
	needed := boxDescriptors
	if f.parallel {
		needed *= len(sides)
	}
	if err := checkDescriptors(needed, "to run it"); err != nil {
		return err
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	if err := runSides(ctx, sides, f.parallel); err != nil {
		if cut, ok := errors.AsType[*interrupted](context.Cause(ctx)); ok {
			fmt.Fprintf(streams.Err, "tcpbox: the comparison was ended before its result: %v\n", cut.by)
			return exitStatus(128 + int(cut.by))
		}
		return err
	}
	a, b := sides[0], sides[1]
	for _, s := range sides {
		if m := s.run.Missed; m != (legs.Missed{}) {
			return hinted(fmt.Sprintf("of run %s %d records and %d connections are missing, so that it cannot be compared", s.letter, m.Dropped, m.Records+m.Ended),
				"let the command make fewer connections, or the machine do less beside it")
		}
	}
	parts := legs.Compare(a.run, b.run)
	line, onTerminal := forTerminal(streams.Out)
	if !onTerminal {
		line = view.Line{ASCII: !utf8Locale()}
	}
	text := view.Compare{Line: line, A: a.side(), B: b.side()}
	if f.json {
		err = printJSON(streams.Out, newDiffJSON(text, parts))
	} else {
		_, err = streams.Out.Write(text.Text(nil, parts))
	}
	switch {
	case err != nil:
		return quietPipe(err)
	case len(parts) > 0 || a.status != b.status:
		return exitStatus(1)
	}
	return nil
}

// A diffSide is one of the two runs.
type diffSide struct {
	letter   string // "a" or "b"
	settings string
	config   tcpbox.Config
	timeout  time.Duration
	say      *speaker

	records legs.Runs
	run     *legs.Run
	status  int
}

func (s *diffSide) side() view.Side {
	return view.Side{Settings: s.settings, Status: s.status, Run: s.run}
}

// sides makes the two runs of the flags. The faults of the words that both have
// are told once.
func (f *diffFlags) sides(args []string, streams Streams) ([]*diffSide, error) {
	common := runFlags{words: f.words, config: f.common}
	common.config.Env = os.Environ()
	if err := common.parseWith("diff", common.set); err != nil {
		return nil, err
	}
	var sides []*diffSide
	var errs []error
	for _, s := range []*diffSide{{letter: "a", settings: f.a}, {letter: "b", settings: f.b}} {
		settings, err := parseSettings(s.settings)
		flags := runFlags{config: f.common}
		flags.config.Env = os.Environ()
		flags.words.all = append(append([]word(nil), f.words.all...), settings...)
		own := len(f.words.all)
		if err == nil {
			err = flags.parseSide(s.letter, own)
		}
		if err == nil {
			s.config = flags.config
			s.timeout = flags.timeout
			err = s.prepare(args, streams, f.quiet)
		}
		if err != nil {
			errs = append(errs, err)
		}
		sides = append(sides, s)
	}
	return sides, errors.Join(errs...)
}

// parseSettings takes KEY=VALUE,KEY=VALUE or FILE apart. A comma in a value,
// as a list of ports has, is one that no KEY= follows.
func parseSettings(text string) (all []word, err error) {
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "=") {
		return []word{{"policy", text}}, nil
	}
	for _, piece := range strings.Split(text, ",") {
		flag := "tcp"
		switch {
		case !strings.Contains(piece, "=") && len(all) > 0:
			all[len(all)-1].value += "," + piece
			continue
		case strings.HasPrefix(piece, "net."):
			flag = "sysctl"
		}
		all = append(all, word{flag, piece})
	}
	return all, nil
}

// parseSide parses the words of one side: those from own on are its settings.
func (f *runFlags) parseSide(letter string, own int) error {
	i := 0
	var errs []error
	for ; i < len(f.words.all); i++ {
		w := f.words.all[i]
		if err := f.set(w.flag, w.value); err != nil && i >= own {
			errs = append(errs, flagErrorOf("diff", dashed(letter), w, err))
		}
	}
	return errors.Join(append(errs, f.settle())...)
}

// prepare makes the configuration of one run whole.
func (s *diffSide) prepare(args []string, streams Streams, quiet bool) error {
	if s.settings == "" {
		s.settings = "nothing else"
	}
	s.say = newSpeaker(streams.Err, quiet)
	c := &s.config
	c.Args = ownProgram(args)
	c.Stdout, c.Stderr = streams.Err, streams.Err // standard output is the result's
	c.Name = "diff-" + s.letter
	c.OnRecords = s.take
	c.OnRefused, c.OnOutcome = s.say.refused, s.say.outcome
	c.Log = slog.New(warnings{s.say})
	return c.Check()
}

func (s *diffSide) take(items []statelog.Item) {
	for i := range items {
		r := items[i].Record(s.config.Name)
		s.records.Add(&r)
	}
}

// runSides runs both, one after the other or at once. The first error ends
// the other run.
func runSides(ctx context.Context, sides []*diffSide, parallel bool) error {
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE) // as run does
	defer signal.Stop(pipe)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(sides))
	var running sync.WaitGroup
	for i, s := range sides {
		running.Go(func() {
			if errs[i] = s.start(ctx); errs[i] != nil {
				cancel()
			}
		})
		if !parallel {
			running.Wait()
		}
	}
	running.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return ctx.Err()
}

// start runs one side to its end.
func (s *diffSide) start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limit := limitTime(s.timeout, s.say)
	defer limit.unwake()
	box, err := tcpbox.Start(ctx, s.config)
	if err != nil {
		return err
	}
	uncut := context.AfterFunc(ctx, func() { _ = box.Close() }) // Wait returns its error
	defer uncut()
	timedOut := limit.endAfter(box, ender(box, false))
	status, err := box.Wait()
	expired := timedOut()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case expired:
		s.status = exitTimeout
	default:
		s.status = status.ExitCode()
	}
	s.records.EndAt(box.EndedAt())
	s.run = s.records.Run()
	return nil
}
