package legs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
	"tcpbox/stack/tcpstate"
)

// sampling has the guest run ss again and again, beside what else it does, and
// keep when each run began and ended, and what was in TIME-WAIT then.
const sampling = `
samples = []
sampled = threading.Event()
def sample():
    while not sampled.is_set():
        began = time.time_ns()
        out = subprocess.run(["ss", "-Htano", "state", "time-wait"], check=True, capture_output=True, text=True).stdout
        samples.append((began, time.time_ns(), [line.split()[2:4] for line in out.splitlines()]))
        sampled.wait(0.2)
sampler = threading.Thread(target=sample)
sampler.start()
`

// opens has the guest open a connection to a peer that echoes, from a port or, if
// that is 0, from any. The result is what port it was.
func opens(port uint16) string {
	return fmt.Sprintf(`
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", %d))
deadline = time.time() + 25
while True:
    try:
        s.connect((socket.gethostbyname("echo"), 80))
        break
    except OSError as e:
        if time.time() > deadline:
            raise
        time.sleep(0.1)
result = s.getsockname()[1]
`, port)
}

// closes has it close first.
const closes = `
s.shutdown(socket.SHUT_WR)
while s.recv(100):
    pass
s.close()
`

// serves has the guest accept a connection on port 8000. The result is from whom.
const serves = `
s, (host, port) = listener.accept()
result = "%s:%d" % (host, port)
`

// waiting is a sandbox with TIME-WAITs.
type waiting struct {
	*box
	cred  *syscall.Credential
	slack time.Duration   // between the kernel's change and its segment
	want  map[ends]string // how each ends

	answered <-chan error // from the guest's client
}

// TestTimeWait follows TIME-WAITs of the guest that end in every way: begin and
// end in the log lie between the last ss without it and the first with it, and the
// other way round. The end is the only one that may be noticed a little later: by
// looks, of which there are twenty in a second. Meanwhile it counts sockets.
func TestTimeWait(t *testing.T) {
	testnet.Require(t)
	testnet.Programs(t, "ss", "python3")
	n := testnet.New(t)
	var all []*waiting
	for i, c := range []struct {
		name  string
		cred  *syscall.Credential
		slack time.Duration
	}{{"root", nil, 20 * time.Millisecond}, {"user", testnet.User, 100 * time.Millisecond}} {
		w := &waiting{want: make(map[ends]string), cred: c.cred, slack: c.slack}
		w.box = startBox(t, n, "wait-"+c.name, c.cred, "--no-ipv6", "--peer", "echo=echo", "--tcp", "guest.time-wait.reuse=on", "-p", fmt.Sprintf("10.77.0.2:%d:8000", 8000+i))
		all = append(all, w)
		w.do(t, sampling, nil)
	}
	for i, w := range all {
		var peer string
		w.do(t, `result = socket.gethostbyname("echo")`, &peer)
		from := func(program string) ends {
			var port uint16
			w.do(t, program, &port)
			return ends{netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), port), netip.AddrPortFrom(netip.MustParseAddr(peer), 80)}
		}
		w.want[from(opens(0)+closes)] = "timer time-wait"
		reused := from(opens(0) + closes)
		w.want[reused] = "call connect"
		killed := from(opens(0) + closes)
		w.want[killed] = "destroyed" // by ss -K

		// The guest serves, and closes first; the client comes again from the same
		// port.
		w.do(t, `listener = socket.create_server(("0.0.0.0", 8000))`, nil)
		for _, end := range []string{closes, ""} {
			w.answered = serve(t, n, netip.AddrPortFrom(testnet.Uplink4, uint16(8000+i)))
			var from string
			w.do(t, serves+end, &from)
			again := ends{netip.MustParseAddrPort("198.18.0.2:8000"), netip.MustParseAddrPort(from)}
			if end != "" {
				must(t, <-w.answered)
				w.want[again] = "segment SYN"
			} else if w.want[again] == "" {
				t.Errorf("the client came from %v the second time", again.remote)
			}
			for k := range w.want {
				w.awaitSample(t, k)
			}
		}
		pid, err := n.Inside(w.cmd.Process.Pid)
		must(t, err)
		testnet.Output(t, n.Of(t, pid).Command(t.Context(), "ss", "-K", "state", "time-wait", "sport", fmt.Sprintf("= :%d", killed.local.Port())))
		w.do(t, "a = s\n"+opens(reused.local.Port()), nil)
	}
	for _, w := range all { // while the first TIME-WAITs run out
		t.Run("counts of "+w.name, func(t *testing.T) { checkCounts(t, n, w.cred) })
	}
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) { w.check(t) })
	}
}

// serve is a client of the guest's: it comes from port 9000 of the remote host, and
// closes when the guest has closed.
func serve(t testing.TB, n *testnet.Net, to netip.AddrPort) <-chan error {
	done := make(chan error, 1)
	go func() { // ends when the guest closes
		c, err := dialSoon(t, n, netip.AddrPortFrom(testnet.Remote4, 9000), to)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		done <- err
	}()
	return done
}

// interval is a TIME-WAIT as the log has it. No end: it goes on.
type interval struct {
	begin, end time.Time
	cause      tcpstate.Cause
	source     tcpstate.Source
}

// timeWaits are those of the guest's leg.
func timeWaits(t testing.TB, path string) map[ends][]interval {
	t.Helper()
	all := make(map[ends][]interval)
	for _, l := range readLogged(t, path) {
		for _, r := range l.records {
			k := ends{r.Local, r.Remote}
			switch {
			case r.To == tcpstate.TimeWait:
				all[k] = append(all[k], interval{begin: r.Time})
			case r.From == tcpstate.TimeWait && len(all[k]) > 0:
				last := &all[k][len(all[k])-1]
				last.end, last.cause, last.source = r.Time, r.Cause, r.Source
			}
		}
	}
	return all
}

// check waits until the first TIME-WAIT has run out, and compares the log with what
// ss has sampled.
func (w *waiting) check(t *testing.T) {
	var held map[ends][]interval
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
		held = timeWaits(t, w.log)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(w.want)), func(k ends) bool { return len(held[k]) == 0 || held[k][0].end.IsZero() }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a TIME-WAIT has no end: %v", held)
		}
	}
	w.do(t, "time.sleep(0.5); sampled.set(); sampler.join(); a.close(); s.close()", nil)
	must(t, <-w.answered)
	var samples []struct {
		Began, Ended int64
		Rows         [][2]string
	}
	w.do(t, `result = [{"began": b, "ended": e, "rows": r} for b, e, r in samples]`, &samples)
	in := func(i int, k ends) bool {
		return slices.Contains(samples[i].Rows, [2]string{k.local.String(), k.remote.String()})
	}
	for k, how := range w.want {
		tw := held[k][0]
		got := tw.cause.String()
		if how == "destroyed" && tw.cause == (tcpstate.Cause{}) && tw.source == tcpstate.FromDiag || got == how {
			got = how
		}
		if got != how {
			t.Errorf("the TIME-WAIT of %v ended by %v, want %v", k, tw.cause, how)
		}
		first := 0
		for first < len(samples) && !in(first, k) {
			first++
		}
		last := first
		for last < len(samples) && in(last, k) {
			last++
		}
		if first == 0 || first == len(samples) || last == len(samples) {
			t.Errorf("%v is in TIME-WAIT from sample %d to %d of %d", k, first, last, len(samples))
			continue
		}
		if after, before := time.Unix(0, samples[first-1].Began), time.Unix(0, samples[first].Ended); tw.begin.Before(after.Add(-w.slack)) || tw.begin.After(before.Add(w.slack)) {
			t.Errorf("the TIME-WAIT of %v began at %v, by ss between %v and %v", k, tw.begin.Format(clock), after.Format(clock), before.Format(clock))
		}
		earliest, latest := time.Unix(0, samples[last-1].Began), time.Unix(0, samples[last].Ended)
		late := tw.end.Sub(latest)
		t.Logf("%v: from %v to %v (after %v), %v: %v after the first ss without it", k, tw.begin.Format(clock), tw.end.Format(clock), tw.end.Sub(tw.begin), tw.cause, late)
		may := w.slack
		if how == "timer time-wait" || how == "destroyed" {
			may = noticed
		}
		if tw.end.Before(earliest.Add(-w.slack)) || late > may {
			t.Errorf("the TIME-WAIT of %v ended at %v, by ss between %v and %v", k, tw.end.Format(clock), earliest.Format(clock), latest.Format(clock))
		}
	}
}

// noticed is how much later than it happened an end may stand in the log that only
// a look shows. Looks come every 50 ms near the end and every 250 ms else, on a
// machine that has time for them.
const noticed = 5 * time.Second

// awaitSample waits until a sample of the guest's has the ends in TIME-WAIT.
func (w *waiting) awaitSample(t testing.TB, k ends) {
	t.Helper()
	w.do(t, fmt.Sprintf(`
row = [%q, %q]
deadline = time.time() + 30
while not any(row in rows for _, _, rows in samples):
    if time.time() > deadline:
        raise TimeoutError(row)
    time.sleep(0.05)
`, k.local, k.remote), nil)
}
