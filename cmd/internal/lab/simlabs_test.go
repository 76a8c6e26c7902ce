package lab

import (
	"slices"
	"testing"
)

// instead replaces the first such line of a row's script.
func instead(old SimStep, now ...SimStep) func(*Variant) {
	return func(v *Variant) {
		for i := range v.Steps {
			for j, line := range v.Steps[i].Sim.Script {
				if line == old {
					v.Steps[i].Sim.Script = slices.Replace(v.Steps[i].Sim.Script, j, j+1, now...)
					return
				}
			}
		}
	}
}

// setting is another setting of the row.
func setting(s Setting) func(*Variant) {
	return func(v *Variant) { v.Settings = append(v.Settings, s) }
}

// plainly takes the row's settings away.
func plainly(v *Variant) { v.Settings = nil }

func init() {
	for name, all := range map[string][]mutation{
		"handshake": {
			{"three-segments", "the last ACK is lost", instead("guest sends ACK seq=1 ack=1 len=0", "guest sends ACK seq=1 ack=1 len=0, lost")},
			{"three-segments", "an ACK with a number of its own", instead("guest sends ACK seq=1 ack=1 len=0", "guest sends ACK seq=2 ack=1 len=0")},
			{"syn-lost", "only one is lost", instead("guest sends SYN seq=0, lost", "guest sends SYN seq=0")},
			{"no-answer", "a second less", instead("wait 126999ms losing", "wait 125999ms losing")},
			{"no-answer", "fewer repetitions", setting("guest.syn-retries=5")},
			{"refused", "somebody listens", instead("stack refuses", "stack accepts")},
			{"synack-unanswered", "fewer repetitions", setting("stack.synack-retries=4")},
			{"data-is-the-ack", "no data", instead("guest sends ACK seq=1 ack=1 len=5", "guest sends nothing")},
			{"synack-retries-1", "the default", plainly},
			{"both-at-once", "the ACK arrives", instead("guest sends ACK, held as the-last", "guest sends ACK, kept as the-last")},
			{"ack-is-seq-plus-1", "what is believed", instead("stack sends ACK seq=1 ack=6", "stack sends ACK seq=1 ack=2")},
			{"synack-retries-180s", "what is believed", instead("wait 180s losing", "wait 60s losing")},
		},
		"teardown": {
			{"client-first", "the server closes first", instead("guest closes", "stack closes")},
			{"client-first", "a shorter TIME-WAIT", setting("guest.time-wait.timeout=30s")},
			{"server-first", "no TIME-WAIT", setting("stack.time-wait.timeout=0")},
			{"merged", "the ACK goes at once", instead("stack sends ACK ack=2, withheld", "stack sends ACK ack=2")},
			{"half-close", "close instead", instead("guest shuts down", "guest closes")},
			{"close-not-shutdown", "shutdown instead", instead("guest closes", "guest shuts down")},
			{"linger-0", "a plain close", instead("guest resets", "guest closes")},
			{"unread", "it is read", instead("all arrives", "all arrives", `guest reads "nobody reads this"`)},
			{"unread", "a plain shutdown", instead("guest closes", "guest shuts down")},
			{"close-wait-before-ack", "the program closes at once", instead("wait 1000s", "stack closes")},
			{"always-four", "nothing is under way", instead("stack writes 1000 bytes", "stack sends nothing")},
		},
	} {
		mutations[name] = all
	}
}

// TestSimSteps reads every form of a step.
func TestSimSteps(t *testing.T) {
	for _, l := range Labs() {
		for _, v := range l.Variants {
			for _, s := range v.Steps {
				if s.Sim == nil {
					continue
				}
				for _, line := range s.Sim.Script {
					if _, err := line.parse(); err != nil {
						t.Errorf("%s, %s, %q: %v", l.Name, v.Name, line, err)
					}
				}
			}
		}
	}
	for _, bad := range []SimStep{
		"", "guest", "guest sends", "nobody closes", "guest sends SIN", "guest sends SYN+SYN", "guest sends SYN, gone",
		"guest sends SYN, held as", "guest sends SYN, held as a b", "guest sends SYN sec=1", "guest sends SYN seq=1 seq=2",
		"guest sends SYN ts=1", "guest forges SYN len=1401", "guest forges SYN, lost", "guest connects 40001", "guest connects 0 > 80",
		"guest connect works", "guest connect gives up", "guest listens", "guest writes 0 bytes", "guest writes 5", `guest writes "`,
		`guest writes "x", Eh`, `guest reads ""`, "guest reads much", "guest is", "guest is OPEN", "guest is CLOSED CLOSED", "guest went",
		"guest sets fin-timeout", "guest sets stack.fin-timeout=1s", "deliver", "deliver a b", "wait", "wait 0s", "wait 25h", "wait 1s sleeping",
		"wait until", "all arrive",
	} {
		if s, err := bad.parse(); err == nil {
			t.Errorf("parse(%q) = %+v, want an error", bad, s)
		}
	}
}

func FuzzSimStep(f *testing.F) {
	for _, l := range Labs() {
		for _, v := range l.Variants {
			for _, s := range v.Steps {
				if s.Sim != nil {
					for _, line := range s.Sim.Script {
						f.Add(string(line))
					}
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := SimStep(text).parse()
		if err == nil && s.kind == simWait && (s.wait <= 0 || s.wait > maxSimWait) {
			t.Errorf("%q waits for %v", text, s.wait)
		}
	})
}
