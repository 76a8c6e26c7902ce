package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"tcpbox"
	"tcpbox/policy/knob"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// sandbox is the box of a row: a real one, with ServeGuest as its guest.
type sandbox struct {
	box     *tcpbox.Sandbox
	steps   *os.File // to the guest
	answers *os.File // from the guest
	decoder *json.Decoder
	stack   *endpoints
	log     *logKeeper // nil: nothing is kept
}

// startSandbox starts a sandbox for a row, offline, with the row's knobs. The
// sysctls are not set yet.
func (r *Runner) startSandbox(ctx context.Context, l *Lab, v *Variant) (box, error) {
	cfg := tcpbox.Config{
		Name: "lab-" + v.Name, Args: r.Guest, Dir: "/", NoIPv6: true,
		DNS: tcpbox.DNS{None: true}, Stderr: r.Stderr,
	}
	if cfg.Args == nil {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
		cfg.Args = []string{self, "lab", "guest"}
	}
	var err error
	if cfg.Peers, err = l.peers(); err != nil {
		return nil, err
	}
	settings, _ := l.settings(v)
	for _, s := range settings {
		if _, _, ok := s.Sysctl(); ok {
			continue
		}
		set, err := knob.ParseSetting(string(s))
		if err != nil {
			return nil, err
		}
		cfg.Knobs = append(cfg.Knobs, set)
	}
	s := &sandbox{stack: newEndpoints()}
	cfg.OnRecords = s.stack.read
	if r.KeepLog {
		s.log = &logKeeper{name: cfg.Name}
		cfg.TraceSegments, cfg.OnSegments = true, s.log.segments
		cfg.OnRecords = func(items []statelog.Item) {
			s.stack.read(items)
			s.log.records(items)
		}
	}

	var guestIn, guestOut *os.File
	if guestIn, s.steps, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer guestIn.Close()
	if s.answers, guestOut, err = os.Pipe(); err != nil {
		s.steps.Close()
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer guestOut.Close()
	s.decoder = json.NewDecoder(s.answers)
	cfg.Stdin, cfg.Stdout = guestIn, guestOut
	if s.box, err = tcpbox.Start(ctx, cfg); err != nil {
		s.steps.Close()
		s.answers.Close()
		return nil, err
	}
	return s, nil
}

// step has the guest do a step. If ctx ends, so does the sandbox.
func (s *sandbox) step(ctx context.Context, st *Step) (Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, maxStep)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.box.Close() })
	defer stop()

	question := *st
	question.Expect = nil // the guest does not need to know
	if err := json.NewEncoder(s.steps).Encode(&question); err != nil {
		return nil, fmt.Errorf("lab: tell the guest: %w", errors.Join(context.Cause(ctx), err))
	}
	var a answer
	if err := s.decoder.Decode(&a); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the guest ended")
		}
		return nil, fmt.Errorf("lab: hear the guest: %w", errors.Join(context.Cause(ctx), err))
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Figures, nil
}

func (s *sandbox) sysctl(name string) (string, error) { return s.box.NS().Sysctl(name) }

func (s *sandbox) setSysctl(name, value string) error { return s.box.NS().SetSysctl(name, value) }

func (s *sandbox) sockets() (sockets, error) {
	text, err := s.box.NS().ProcNet("sockstat")
	if err != nil {
		return sockets{}, err
	}
	return parseSockstat(text)
}

// settleTime bounds the wait for connections that the guest has closed. Only
// what hangs meets it.
const settleTime = 20 * time.Second

// settle waits until every connection has ended, but for TIME-WAIT, at both
// ends.
func (s *sandbox) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := s.sockets()
		if err != nil {
			return err
		}
		open, _ := s.stack.count()
		if now.inUse == 0 && open == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: the guest still has %d sockets, and the stack %d open endpoints: %w",
				now.inUse, open, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (s *sandbox) count() (Figures, error) {
	now, err := s.sockets()
	if err != nil {
		return nil, err
	}
	text, err := s.box.NS().ProcNet("netstat")
	if err != nil {
		return nil, err
	}
	mib, err := parseNetstat(text)
	if err != nil {
		return nil, err
	}
	_, waiting := s.stack.count()
	return Figures{
		guestTimeWait: now.timeWait, stackTimeWait: waiting,
		synRetransmits: mib["TcpExtTCPSynRetrans"], timeWaitOverflow: mib["TcpExtTCPTimeWaitOverflow"],
	}, nil
}

func (s *sandbox) close() error {
	return errors.Join(s.box.Close(), s.steps.Close(), s.answers.Close())
}

// took returns what happened. The sandbox has ended.
func (s *sandbox) took() Log {
	if s.log == nil {
		return Log{}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.log
}

// maxLog bounds the records and the segments that are kept of a row. The first
// ones stay.
const maxLog = 100_000

// logKeeper keeps what happened in a row.
type logKeeper struct {
	name string // of the sandbox

	mu  sync.Mutex
	log Log
}

func (k *logKeeper) records(items []statelog.Item) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range items {
		if len(k.log.Records) == maxLog {
			return
		}
		k.log.Records = append(k.log.Records, items[i].Record(k.name))
	}
}

func (k *logKeeper) segments(segments []statelog.Segment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log.Segments = append(k.log.Segments, segments[:min(len(segments), maxLog-len(k.log.Segments))]...)
}

// endpoints follows the stack's endpoints by the state log.
type endpoints struct {
	mu    sync.Mutex
	state map[tcpstate.Conn]tcpstate.State // of those that are neither CLOSED nor LISTEN
}

func newEndpoints() *endpoints {
	return &endpoints{state: make(map[tcpstate.Conn]tcpstate.State)}
}

// read takes a part of the log.
func (e *endpoints) read(items []statelog.Item) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range items {
		switch t := &items[i].Transition; {
		case !items[i].IsTransition() || t.Leg != tcpstate.Stack:
		case t.To == tcpstate.Closed || t.To == tcpstate.Listen:
			delete(e.state, t.Conn)
		default:
			e.state[t.Conn] = t.To
		}
	}
}

// count returns how many endpoints have a connection that has not ended, and
// how many are in TIME-WAIT.
func (e *endpoints) count() (open, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, st := range e.state {
		if st == tcpstate.TimeWait {
			waiting++
		} else {
			open++
		}
	}
	return open, waiting
}
