package bench

import (
	"encoding/json"
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
	full    = flag.Bool("measure", false, "measure in full: several rounds, and print the table")
	rounds  = flag.Int("rounds", 3, "how many rounds, with -measure")
	without = flag.String("without", "", "ways to leave out, separated by commas, with -measure")
	output  = flag.String("samples", "", "write the samples to this file, with -measure")
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

// A row of the table: a task, and what is made of a sample of it.
type row struct {
	name  string
	unit  string
	task  task
	value func(t task, s sample) float64
	stack bool // it is about the stack's process, which the kernel's way has not
}

func rate(t task, s sample) float64  { return float64(t.Count) / s.Seconds }
func gbits(t task, s sample) float64 { return rate(t, s) * 8 / 1e9 }
func cpuPerGB(t task, s sample) float64 {
	return s.CPU / (float64(t.Count) / 1e9)
}
func cpuPerThousand(t task, s sample) float64 { return s.CPU / (float64(t.Count) / 1000) }

// rows are the tasks; n makes them smaller for a short run.
func rows(n int) []row {
	mib := 1 << 20
	up := task{Kind: kindUp, Count: 1024 * mib / n, Streams: 1}
	up4 := task{Kind: kindUp, Count: 1024 * mib / n, Streams: 4}
	down := task{Kind: kindDown, Count: 1024 * mib / n, Streams: 1}
	down4 := task{Kind: kindDown, Count: 1024 * mib / n, Streams: 4}
	one := task{Kind: kindShort, Count: 3000 / n, Streams: 1}
	oneByPeer := task{Kind: kindShort, Count: 3000 / n, Streams: 1, ByPeer: true}
	many := task{Kind: kindShort, Count: 32 * (6400 / 32 / n), Streams: 32}
	manyByPeer := task{Kind: kindShort, Count: 32 * (6400 / 32 / n), Streams: 32, ByPeer: true}
	ping := task{Kind: kindPing, Count: 10000 / n}
	udp := task{Kind: kindUDP, Count: 100000 / n}
	idle := task{Kind: kindHold}
	mibs := func(_ task, s sample) float64 { return s.RSS / float64(mib) }
	return []row{
		{"bulk up, 1 stream", "Gbit/s", up, gbits, false},
		{"bulk up, 4 streams", "Gbit/s", up4, gbits, false},
		{"bulk down, 1 stream", "Gbit/s", down, gbits, false},
		{"bulk down, 4 streams", "Gbit/s", down4, gbits, false},
		{"short, 1 at a time, client closes first", "conn/s", one, rate, false},
		{"short, 1 at a time, server closes first", "conn/s", oneByPeer, rate, false},
		{"short, 32 at once, client closes first", "conn/s", many, rate, false},
		{"short, 32 at once, server closes first", "conn/s", manyByPeer, rate, false},
		{"1 byte there and back, p50", "µs", ping, func(_ task, s sample) float64 { return s.P50 * 1e6 }, false},
		{"1 byte there and back, p99", "µs", ping, func(_ task, s sample) float64 { return s.P99 * 1e6 }, false},
		{"UDP, 64 bytes there and back, 32 under way", "packets/s", udp, rate, false},
		{"CPU of the stack, bulk up", "s/GB", up, cpuPerGB, true},
		{"CPU of the stack, bulk down", "s/GB", down, cpuPerGB, true},
		{"CPU of the stack, short connections", "s/1000", one, cpuPerThousand, true},
		{"memory, idle", "MiB", idle, mibs, true},
		{"memory, 1000 connections", "MiB", task{Kind: kindHold, Count: 1000 / n}, mibs, true},
		{"memory, 10000 connections", "MiB", task{Kind: kindHold, Count: 10000 / n}, mibs, true},
	}
}

// TestBench measures. Without -measure it is a test of the benchmark itself: one
// small round, of which nothing is expected but that it works.
func TestBench(t *testing.T) {
	n, times := 100, 1
	if *full {
		n, times = 1, *rounds
	}
	w := newWorld(t)
	report := &report{Version: 1, Machine: machine(), Date: time.Now().Format(time.DateOnly)}
	var present []way
	for _, y := range ways() {
		version, ok := y.available()
		if slices.Contains(strings.Split(*without, ","), y.name) {
			ok = false
		}
		if !ok {
			report.Missing = append(report.Missing, y.name)
			continue
		}
		if !*full && y.version != nil {
			continue // other programs' behaviour is no test of ours
		}
		present = append(present, y)
		report.Ways = append(report.Ways, named{y.name, version})
	}
	for round := range times {
		w.round(t, present, rows(n), report, round)
	}
	for _, y := range present {
		if y.stack == "tcpbox" {
			report.add("start and end of a sandbox that runs true", "ms", y.name, w.startUp(t, times))
		}
	}
	if *full {
		fmt.Print(report.table())
	}
	if *output != "" {
		text, err := json.MarshalIndent(report, "", "  ")
		if err == nil {
			err = os.WriteFile(*output, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// round measures every row once in every way. Rows with the same task share its
// sample.
func (w *world) round(t *testing.T, present []way, all []row, r *report, round int) {
	type key struct {
		way  string
		task task
	}
	samples := make(map[key]sample)
	for _, row := range all {
		for _, y := range present {
			if row.stack && y.stack == "" {
				continue
			}
			k := key{y.name, row.task}
			s, ok := samples[k]
			if !ok {
				if *full {
					fmt.Fprintf(os.Stderr, "round %d: %s: %s\n", round+1, row.name, y.name)
				}
				var err error
				if s, err = w.measure(y, row.task); err != nil {
					if y.version == nil {
						t.Errorf("%s, %s: %v", row.name, y.name, err)
					}
					r.fail(row.name, row.unit, y.name, err)
					continue
				}
				samples[k] = s
			}
			r.add(row.name, row.unit, y.name, []float64{row.value(row.task, s)})
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
	return string(out)
}
