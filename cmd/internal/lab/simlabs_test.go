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
		"why-time-wait-1": {
			{"lost", "no TIME-WAIT", setting("guest.time-wait.timeout=0")},
			{"lost", "the ACK arrives", instead("guest sends ACK ack=2, lost", "guest sends ACK ack=2")},
			{"lost-again", "TIME-WAIT is too short", setting("guest.time-wait.timeout=500ms")},
			{"no-time-wait", "TIME-WAIT", plainly},
			{"no-buckets", "TIME-WAIT", plainly},
		},
		"why-time-wait-2": {
			{"no-time-wait", "TIME-WAIT", plainly},
			{"no-time-wait", "the clock of the numbers is a tick further", instead("wait until 10ms", "wait until 10000064ns")},
			{"client-waits", "no TIME-WAIT", setting("time-wait.timeout=0")},
			{"server-waits", "an RST ends it", setting("stack.time-wait.rfc1337=off")},
			{"paws", "no check", func(v *Variant) { v.Steps[0].Sim.PAWS = false }},
			{"paws", "no timestamps", setting("timestamps=off")},
			{"killed-by-rst", "the RST is ignored", setting("stack.time-wait.rfc1337=on")},
			{"slow", "a number that fits", instead("deliver duplicate", "guest forges ACK seq=1 ack=1 len=18")},
		},
		"simultaneous-open": {
			{"crossing", "one SYN arrives before the other is sent", instead("guest sends SYN seq=0, held as from-guest", "guest sends SYN seq=0")},
			{"synack-lost", "it is not lost", instead("guest sends SYN+ACK, lost", "guest sends SYN+ACK")},
			{"not-at-once", "from another port", instead("stack connects 80 > 40001", "stack connects 81 > 40001")},
		},
		"simultaneous-close": {
			{"crossing", "the FINs do not cross", instead("guest sends FIN+ACK, held as from-guest", "guest sends FIN+ACK")},
			{"crossing", "a shorter TIME-WAIT", setting("guest.time-wait.timeout=30s")},
			{"ack-lost", "it is not lost", instead("stack sends ACK, lost", "stack sends ACK")},
			{"not-crossing", "the FIN comes late", instead("guest sends FIN+ACK", "guest sends FIN+ACK, lost")},
		},
		"last-ack": {
			{"answered", "it is lost", instead("guest sends ACK", "guest sends ACK, lost")},
			{"ack-lost", "it is not", instead("guest sends ACK, lost", "guest sends ACK")},
			{"gone", "fewer repetitions", setting("stack.orphan.retries=3")},
			{"no-memory", "TIME-WAIT", plainly},
			{"fewer-retries", "the default", plainly},
			{"fin-timeout", "what does help", setting("stack.orphan.retries=2")},
		},
		"fin-wait1-pile": {
			{"vanished", "fewer repetitions", setting("guest.orphan.retries=3")},
			{"stopped-reading", "room for all", plainly},
			{"stopped-reading", "a limit", setting("guest.orphan.timeout=60s")},
			{"reads-again", "it does not read", instead("stack reads ok", "wait 1s")},
			{"fewer-retries", "the default", plainly},
			{"orphan-timeout", "the default", func(v *Variant) { v.Settings = v.Settings[:1] }},
			{"fin-timeout", "what does help", setting("guest.orphan.retries=2")},
		},
		"nat-idle-drop": {
			{"forgotten", "a middlebox with a better memory", func(v *Variant) { v.Steps[0].Sim.Forgets = "400s" }},
			{"reader", "keepalive finds out", func(v *Variant) {
				v.Settings = []Setting{"guest.keepalive=on", "guest.keepalive.idle=60s", "guest.keepalive.interval=5s"}
				v.Steps[0].Sim.Forgets = "30s"
				instead("wait 1h", "wait 1h flowing")(v)
			}},
			{"in-time", "a minute too long", instead("wait 300s flowing", "wait 360s flowing")},
			{"keepalive-60", "no keepalive", plainly},
			{"keepalive-60", "too seldom", setting("guest.keepalive.idle=360s")},
			{"user-timeout", "the default", plainly},
			{"keepalive-default", "often enough", setting("guest.keepalive.idle=60s")},
			{"keepalive-400", "often enough", setting("guest.keepalive.idle=300s")},
		},
		"challenge-ack": {
			{"rst-in-window", "the very number", instead("guest forges RST seq=1001", "guest forges RST seq=1")},
			{"rst-outside", "inside", instead("guest forges RST seq=-1000", "guest forges RST seq=1000")},
			{"rst-exact", "beside it", instead("guest forges RST seq=1", "guest forges RST seq=2")},
			{"syn", "no SYN", instead("guest forges SYN seq=5000", "guest sends nothing")},
			{"restarted", "the first RST arrives", instead("guest sends RST+ACK, lost", "guest sends RST+ACK")},
			{"limited", "too early", instead("wait 600ms", "wait 60ms")},
			{"data-forged", "another number", instead("guest forges ACK seq=1 ack=1 len=5", "guest forges ACK seq=-9 ack=1 len=5")},
		},
		"rfc1337": {
			{"off", "the RST is ignored", setting("guest.time-wait.rfc1337=on")},
			{"on", "the RST is obeyed", plainly},
			{"wrong-number", "the number is right", instead("stack forges RST seq=1000", "stack forges RST seq=2")},
		},
		"port-reuse-rfc6191": {
			{"newer-timestamp", "newer SYNs open nothing", setting("stack.time-wait.newer-syn=off")},
			{"newer-number", "newer SYNs open nothing", setting("stack.time-wait.newer-syn=off")},
			{"older-number", "a newer one", instead("guest forges SYN seq=0", "guest forges SYN seq=100000")},
			{"not-reopened", "newer SYNs open a connection", func(v *Variant) { v.Settings = v.Settings[:1] }},
			{"own-time-wait", "no TIME-WAIT", setting("guest.time-wait.timeout=0")},
		},
		"tw-recycle-nat": {
			{"recycle", "it is off", plainly},
			{"recycle", "the clocks agree", instead("guest forges SYN seq=0 from=40002 ts=-1000000", "guest forges SYN seq=0 from=40002 ts=1000")},
			{"off", "it is on", setting("stack.time-wait.recycle=on")},
			{"one-clock", "a second clock", instead("guest forges SYN seq=0 from=40002 ts=2000", "guest forges SYN seq=0 from=40002 ts=-2000")},
			{"no-timestamps", "timestamps", func(v *Variant) { v.Settings = v.Settings[:1] }},
			{"reuse", "recycle", setting("stack.time-wait.recycle=on")},
		},
		"all-states": {
			{"three-connections", "the FINs do not cross", instead("guest sends FIN+ACK, held as three", "guest sends FIN+ACK")},
			{"three-connections", "an RST instead of a FIN", instead("stack closes", "stack resets")},
			{"one-connection", "TIME-WAIT is not over", instead("wait 61s", "wait 50s")},
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
