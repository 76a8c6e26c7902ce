package bench

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

var (
	full    = flag.Bool("measure", false, "measure in full: several rounds, and print the page")
	rounds  = flag.Int("rounds", 3, "how many rounds, with -measure")
	without = flag.String("without", "", "ways to leave out, separated by commas, with -measure")
	output  = flag.String("samples", "", "write the samples to this file, with -measure")
	page    = flag.String("page", "", "write the page into this file, between its marks, with -measure")
)

// The binary is also the server and the guest, by its first argument.
const (
	serverArg = "bench-server"
	guestArg  = "bench-guest"
)

func TestMain(m *testing.M) {
	testnet.Init()
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case serverArg:
			os.Exit(serve(os.Args[2]))
		case guestArg:
			os.Exit(play(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// TestBench measures. Without -measure it is a test of the benchmark itself: one
// small round, of which nothing is expected but that it works.
func TestBench(t *testing.T) {
	all, times := rows(20*time.Millisecond, 100), 1
	if *full {
		all, times = rows(time.Second, 10000), *rounds
	}
	before := loadNow()
	w := newWorld(t)
	report := &report{Version: 1, Machine: machine(), Date: time.Now().Format(time.DateOnly), Rounds: times}
	present := choose(report)
	for round := range times {
		w.round(t, present, all, report, round)
	}
	for _, y := range present {
		if y.stack == "tcpbox" {
			report.add("start and end of a sandbox that runs true", "ms", y.name, w.startUp(t, times))
		}
	}
	report.Load = [2]load{before, loadNow()}
	if *full {
		progress("")
		fmt.Print(report.page())
	}
	if err := report.write(*output, *page, pageBegin, pageEnd, report.page()); err != nil {
		t.Error(err)
	}
}

// choose returns the ways to measure, and notes them and those left out.
func choose(r *report) (present []way) {
	for _, y := range ways() {
		version, ok := y.available()
		if !ok || slices.Contains(strings.Split(*without, ","), y.name) {
			r.Missing = append(r.Missing, y.name)
			continue
		}
		if !*full && (y.version != nil || y.full) {
			continue // other programs' behaviour is no test of ours
		}
		present = append(present, y)
		r.Ways = append(r.Ways, named{y.name, version})
	}
	return present
}

// round measures every row once in every way. Rows with the same task share its
// sample.
func (w *world) round(t *testing.T, present []way, all []row, r *report, round int) {
	type key struct {
		way  string
		task task
	}
	samples := make(map[key]sample)
	unable := make(map[string]string) // why a way cannot hold connections
	for _, row := range all {
		if row.once && round > 0 {
			continue
		}
		for _, y := range present {
			if row.stack && y.stack == "" || r.row(row.name, row.unit).Failure[y.name] != "" {
				continue
			}
			if why := unable[y.name]; why != "" && row.once {
				r.fail(row.name, row.unit, y.name, errors.New(why))
				continue
			}
			k := key{y.name, row.task}
			s, ok := samples[k]
			if !ok {
				progress(fmt.Sprintf("round %d of %d: %s: %s", round+1, r.Rounds, row.name, y.name))
				var err error
				if s, err = w.measure(y, row.task); err != nil {
					if y.version == nil {
						t.Errorf("%s, %s: %v", row.name, y.name, err)
					}
					r.fail(row.name, row.unit, y.name, err)
					if row.once {
						unable[y.name] = "it could not do less"
					}
					continue
				}
				samples[k] = s
			}
			r.add(row.name, row.unit, y.name, []float64{row.value(s)})
		}
	}
}

// startUp times sandboxes from the start of tcpbox to its end.
func (w *world) startUp(t *testing.T, times int) []float64 {
	var all []float64
	for range 4 * times {
		cmd := w.Uplink.Command(t.Context(), w.tcpbox, "run", "--quiet", "--net", "none", "--", "true")
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			t.Errorf("tcpbox run true: %v", err)
			return nil
		}
		all = append(all, time.Since(begin).Seconds()*1000)
	}
	return all
}

// machine says where it was measured.
func machine() string {
	out, err := exec.Command("sh", "-c", `uname -sr; nproc; sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1`).Output()
	if err != nil {
		return err.Error()
	}
	f := append(strings.Split(strings.TrimSpace(string(out)), "\n"), "processor unknown")
	return fmt.Sprintf("%s, %s CPUs, %s\n", f[0], f[1], f[2])
}

// loadNow is the machine's load over the last minute.
func loadNow() (now load) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &now)
	}
	if err != nil {
		return -1
	}
	return now
}

// write writes the samples into one file, and text into another between two marks,
// each unless its name is empty.
func (r *report) write(samples, page, begin, end, text string) error {
	if samples != "" {
		all, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			err = os.WriteFile(samples, append(all, '\n'), 0o644)
		}
		if err != nil {
			return err
		}
	}
	if page == "" {
		return nil
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no %q and %q to write between", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+text+end+after), 0o644)
}

// The marks of the page between which the figures stand.
const (
	pageBegin = "<!-- written by make bench PAGE=… -->\n"
	pageEnd   = "<!-- to here -->\n"
)
