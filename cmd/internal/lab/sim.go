package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tcpbox/policy/knob"
	"tcpbox/stack/sim"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
	"tcpbox/tun/packet"
)

// Sim is a step of a lab that runs in virtual time: a script of what two
// programs do, on two hosts of the stack that are joined in memory, and of what
// becomes of each segment between them. Its figure is ok, how many of its checks
// hold; all of them have to. The steps of a row go on where the one before
// ended.
type Sim struct {
	Script []SimStep `json:"script"`

	// The first step of a row may say of the hosts:

	// Latency is how long a segment takes, such as "10us". Empty means 1ms.
	Latency string `json:"latency,omitempty"`

	// Forgets is after how long without a segment a middlebox between the hosts
	// drops what is not a SYN, such as "350s". Empty means that there is none.
	Forgets string `json:"forgets,omitempty"`

	// PAWS: the hosts refuse old timestamps, which the stack does not do by
	// itself.
	PAWS bool `json:"paws,omitempty"`
}

// Miss is a check of a script that does not hold.
type Miss struct {
	Step     string `json:"step"`
	Line     int    `json:"line"` // of the script, from 1
	Expected string `json:"expected"`
	Measured string `json:"measured"`
}

func (m Miss) String() string {
	return fmt.Sprintf("%s, line %d: expected %s, measured %s", m.Step, m.Line, m.Expected, m.Measured)
}

// simBox is the box of a row that runs in virtual time.
type simBox struct {
	name   string
	knobs  []knob.Setting // the row's and the lab's
	player *player        // nil before the first step
	asked  []string       // figures that the table or the row wants to know
	misses []Miss
	log    Log
}

// startSim makes the box of a row of a lab that runs in virtual time.
func startSim(_ context.Context, l *Lab, v *Variant) (box, error) {
	b := &simBox{name: v.Name, asked: slices.Collect(maps.Keys(v.After))}
	for _, c := range l.Columns {
		if v.stepOf(c.Figure) == "" {
			b.asked = append(b.asked, c.Figure)
		}
	}
	settings, _ := l.settings(v)
	for _, s := range settings {
		set, err := knob.ParseSetting(string(s))
		if err != nil {
			return nil, err
		}
		b.knobs = append(b.knobs, set)
	}
	return b, nil
}

// open makes the hosts.
func (b *simBox) open(s *Sim) error {
	latency, err := s.duration(s.Latency)
	if err != nil {
		return err
	}
	forgets, err := s.duration(s.Forgets)
	if err != nil {
		return err
	}
	n, err := sim.New(sim.Config{Seed: 1, PAWS: s.PAWS, Latency: latency})
	if err != nil {
		return err
	}
	b.player = newPlayer(n)
	b.player.forgets = forgets
	for _, set := range b.knobs {
		for leg, end := range b.player.ends {
			if set.Leg != 0 && set.Leg != leg {
				continue
			}
			if err := end.host.Set(set); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *simBox) step(ctx context.Context, s *Step) (Figures, error) {
	if b.player == nil {
		if err := b.open(s.Sim); err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxStep)
	defer cancel()
	holds, misses, err := b.player.play(ctx, s.Sim.Script)
	for i := range misses {
		misses[i].Step = s.Name
	}
	b.misses = append(b.misses, misses...)
	return Figures{"ok": holds}, err
}

// A simulation has no kernel, and so no sysctls: Check has refused them.
func (b *simBox) sysctl(name string) (string, error) { return "", noKernel(name) }

func (b *simBox) setSysctl(name, _ string) error { return noKernel(name) }

func noKernel(name string) error {
	return fmt.Errorf("lab: %s: a lab in virtual time has no kernel", name)
}

func (b *simBox) settle(context.Context) error { return nil }

func (b *simBox) count(context.Context, Figures, map[string]Range) (Figures, error) {
	if b.player == nil {
		return Figures{}, nil
	}
	f := b.player.figures()
	for _, name := range b.asked { // what did not happen was counted too
		f[name] += 0
	}
	return f, nil
}

func (b *simBox) took() Log { return b.log }

// close ends the hosts; what that does is no part of the log.
func (b *simBox) close() error {
	if b.player == nil {
		return nil
	}
	b.log = logOf(b.name, b.player.net.Events())
	return b.player.close()
}

// check reports what is wrong with a step in virtual time.
func (s *Sim) check() error {
	var errs []error
	if len(s.Script) == 0 {
		errs = append(errs, errors.New("its script is empty"))
	}
	for _, text := range []string{s.Latency, s.Forgets} {
		_, err := s.duration(text)
		errs = append(errs, err)
	}
	for i, line := range s.Script {
		if _, err := line.parse(); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

// duration reads a duration; empty is zero.
func (s *Sim) duration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > time.Hour {
		return 0, fmt.Errorf("%q is no duration from 1ns to 1h", text)
	}
	return d, nil
}

// ofHosts reports whether it says something of the hosts, or of what is between
// them.
func (s *Sim) ofHosts() bool { return s.Latency != "" || s.Forgets != "" || s.PAWS }

// checks is how many lines of the script are checks.
func (s *Sim) checks() int {
	n := 0
	for _, line := range s.Script {
		if st, err := line.parse(); err == nil && st.checks() {
			n++
		}
	}
	return n
}

// Log is what happened in a row, in order.
type Log struct {
	Records  []statelog.Record
	Segments []statelog.Segment
}

// logOf makes a log of what two hosts did.
func logOf(name string, events []sim.Event) (log Log) {
	numbers := make(map[[2]uint16]tcpstate.Conn) // by the ports of guest and stack
	for _, e := range events {
		if e.Packet == nil {
			item := statelog.Item{Transition: e.Transition}
			log.Records = append(log.Records, item.Record(name))
		}
	}
	// A segment may come just before the first transition of its connection.
	next := 0
	for i, e := range events {
		if e.Packet == nil {
			continue
		}
		for ; next < len(events) && (next <= i || events[next].Time.Equal(e.Time)); next++ {
			if tr := events[next].Transition; events[next].Packet == nil && tr.Remote.IsValid() {
				numbers[portsOf(tr)] = tr.Conn
			}
		}
		h, err := packet.Parse(e.Packet)
		if err != nil || h.Proto != packet.TCP {
			continue
		}
		s := statelog.Segment{
			Time: e.Time, Sandbox: name, Sender: tcpstate.Stack, Src: h.Src, Dst: h.Dst,
			Header: e.Packet[h.IPLen:h.HeaderLen()], Payload: h.PayloadLen(), Lost: e.Lost,
		}
		ports := [2]uint16{h.Dst.Port(), h.Src.Port()}
		if e.FromGuest {
			s.Sender = tcpstate.Guest
			ports[0], ports[1] = ports[1], ports[0]
		}
		s.Conn = numbers[ports]
		log.Segments = append(log.Segments, s)
	}
	return log
}

func portsOf(tr tcpstate.Transition) [2]uint16 {
	if tr.Leg == tcpstate.Guest {
		return [2]uint16{tr.Local.Port(), tr.Remote.Port()}
	}
	return [2]uint16{tr.Remote.Port(), tr.Local.Port()}
}

// lines are the script, behind what is said of the hosts.
func (s *Sim) lines() []string {
	var lines []string
	if s.Latency != "" {
		lines = append(lines, "(a segment takes "+s.Latency+")")
	}
	if s.Forgets != "" {
		lines = append(lines, "(a middlebox forgets what is silent for "+s.Forgets+")")
	}
	if s.PAWS {
		lines = append(lines, "(old timestamps are refused)")
	}
	for _, line := range s.Script {
		lines = append(lines, string(line))
	}
	return lines
}
