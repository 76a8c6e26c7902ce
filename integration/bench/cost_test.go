package bench

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tcpbox/integration/testnet"
)

// The marks of docs/performance.md between which TestCost writes.
const (
	costBegin = "<!-- written by make cost PAGE=… -->\n"
	costEnd   = "<!-- to here -->\n"
)

// A costWay is tcpbox with more or less of what follows connections; against is the
// way that its ratios are to.
type costWay struct {
	way
	against string
}

// costWays are what is compared. Each logs into a file of its own, or not at all.
func costWays(w *world) []costWay {
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	make := func(name, against string, user *syscall.Credential, log bool, flags ...string) costWay {
		return costWay{way{name, func(w *world, guest []string) *exec.Cmd {
			args := append([]string{"run", "--quiet"}, flags...)
			if log {
				args = append(args, "--log", w.logFile())
			}
			return w.Uplink.CommandAs(w.t.Context(), user, w.tcpbox, append(append(args, "--"), guest...)...)
		}, "tcpbox", nil, false}, against}
	}
	return []costWay{
		make("off", "off", nil, false, "--no-guest-leg"),
		make("on", "off", nil, false),
		make("log", "off", nil, true),
		make("segments", "off", nil, true, "--trace-segments"),
		make("off, user", "off, user", nobody, false, "--no-guest-leg"),
		make("log, user", "off, user", nobody, true),
	}
}

// logFile is a new file that any user may write.
func (w *world) logFile() string {
	name := filepath.Join(testnet.Dir(w.t), "states.jsonl")
	err := os.WriteFile(name, nil, 0o666)
	if err == nil {
		err = os.Chmod(name, 0o666)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return name
}

// costRows are the tasks, each of which lasts for length; held connections are
// open at once.
func costRows(length time.Duration, held int) []row {
	up := task{Kind: kindUp, Length: length, Streams: 1}
	down := task{Kind: kindDown, Length: length, Streams: 1}
	one := task{Kind: kindShort, Length: length, Count: 20000, Streams: 1}
	many := task{Kind: kindShort, Length: length, Count: 20000, Streams: 32}
	return []row{
		{"bulk up", "Gbit/s", up, gbits, true, false},
		{"bulk down", "Gbit/s", down, gbits, true, false},
		{"CPU, bulk up", "s/GB", up, cpuPerGB, true, false},
		{"CPU, bulk down", "s/GB", down, cpuPerGB, true, false},
		{"CPU, short connections, 1 at a time", "s/1000", one, cpuPerThousand, true, false},
		{"CPU, short connections, 32 at once", "s/1000", many, cpuPerThousand, true, false},
		{"memory of a connection that is held", "KiB", task{Kind: kindHold, Count: held, Streams: 10}, kibEach, true, true},
	}
}

// TestCost measures what it costs that connections are followed: the same tasks with
// more and less of it, one after the other in each round. Without -measure it is a
// test of itself, as TestBench is.
func TestCost(t *testing.T) {
	length, held, times := 20*time.Millisecond, 100, 1
	if *full {
		length, held, times = time.Second, 10000, *rounds
	}
	before := loadNow()
	w := newWorld(t)
	w.copySelf()
	all := costWays(w)
	report := &report{Version: 1, Machine: machine(), Date: time.Now().Format(time.DateOnly), Rounds: times}
	var present []way
	for _, y := range all {
		if !*full && y.name != "segments" && y.name != "log, user" {
			continue // one has everything, the other what a user has
		}
		present = append(present, y.way)
		report.Ways = append(report.Ways, named{Name: y.name})
	}
	for round := range times {
		w.round(t, present, costRows(length, held), report, round)
		slices.Reverse(present) // so that none is always the first
	}
	report.Load = [2]load{before, loadNow()}
	if *full {
		progress("")
		fmt.Print(report.costs(all))
	}
	if err := report.write(*output, *page, costBegin, costEnd, report.costs(all)); err != nil {
		t.Error(err)
	}
}

// copySelf has the guest be a copy of this program that any user may execute.
func (w *world) copySelf() {
	from, err := os.Open(w.self)
	if err != nil {
		w.t.Fatal(err)
	}
	defer from.Close()
	w.self = filepath.Join(testnet.Dir(w.t), "bench.test")
	to, err := os.OpenFile(w.self, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = io.Copy(to, from)
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// costs is the report as a table: of each way the median, and in brackets the
// median of its ratios within a round, with their spread.
func (r *report) costs(ways []costWay) string {
	var b strings.Builder
	r.preface(&b)
	b.WriteString("| |")
	for _, y := range ways {
		fmt.Fprintf(&b, " %s |", y.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(ways)) + "\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "| %s, %s |", row.Name, row.Unit)
		for _, y := range ways {
			fmt.Fprintf(&b, " %s |", row.cost(y.name, y.against))
		}
		b.WriteByte('\n')
	}
	for _, line := range r.unable() {
		fmt.Fprintf(&b, "\n%s\n", line)
	}
	return b.String()
}

func (r *result) cost(way, against string) string {
	v := r.Values[way]
	if len(v) == 0 {
		return "–"
	}
	text := number(median(v))
	ratios := r.ratios(way, against)
	if way == against || ratios == nil {
		return text
	}
	return fmt.Sprintf("%s (%s *%s–%s*)", text, number(median(ratios)), number(slices.Min(ratios)), number(slices.Max(ratios)))
}

func TestCosts(t *testing.T) {
	r := &report{Date: "2026-01-02", Machine: "m\n", Rounds: 3, Ways: []named{{Name: "off"}, {Name: "log"}}}
	r.add("CPU", "s/GB", "off", []float64{1, 2, 4})
	r.add("CPU", "s/GB", "log", []float64{2, 3, 4})
	r.add("memory", "KiB", "log", []float64{40})
	r.fail("memory", "KiB", "off", fmt.Errorf("no"))
	ways := []costWay{{way{name: "off"}, "off"}, {way{name: "log"}, "off"}}
	const want = "Measured on 2026-01-02 in 3 rounds on this machine, its load being 0.0 before and 0.0 after:\n\n```\nm\n```\n" + `
| | off | log |
|---|---:|---:|
| CPU, s/GB | 2.00 | 3.00 (1.50 *1.00–2.00*) |
| memory, KiB | – | 40.0 |

off could not do “memory”: no.
`
	if got := r.costs(ways); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}
