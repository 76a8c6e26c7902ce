package testnet

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Frame is an IP packet of a recording, and when it passed.
type Frame struct {
	Time time.Time
	Data []byte
}

// PCAP is a recording of frames, in the form that tcpdump writes
// (pcap-savefile(5)), with the link type RAW: each frame begins with its IP
// header.
func PCAP(frames []Frame) []byte {
	const magic, raw = 0xa1b23c4d, 101 // times in nanoseconds; LINKTYPE_RAW
	order := binary.LittleEndian
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...) // zone and accuracy of the times
	b = order.AppendUint32(b, 1<<18)  // no frame is longer
	b = order.AppendUint32(b, raw)
	for _, f := range frames {
		b = order.AppendUint32(b, uint32(f.Time.Unix()))
		b = order.AppendUint32(b, uint32(f.Time.Nanosecond()))
		b = order.AppendUint32(b, uint32(len(f.Data)))
		b = order.AppendUint32(b, uint32(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

// Tshark gives frames to tshark(1), and returns of each the fields of these
// names. A field that is several times in a frame is several values, in their
// order; one that is not there is none. The test is skipped where tshark is not
// installed, and fails there when CI=true.
//
// The recording is read twice, so that what is told of a whole conversation is so
// in its first frame. Names of hosts and ports are not looked up, and no
// configuration is read.
func Tshark(t testing.TB, frames []Frame, fields ...string) []map[string][]string {
	t.Helper()
	Programs(t, "tshark")
	dir := Dir(t)
	file := filepath.Join(dir, "frames.pcap")
	if err := os.WriteFile(file, PCAP(frames), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", "-2", "-r", file, "-o", "tcp.relative_sequence_numbers:TRUE", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...) //nolint:gosec // the arguments are the test's
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+dir, "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, stderr.String())
	}
	lines := slices.Collect(strings.Lines(string(out)))
	if len(lines) != len(frames) {
		t.Fatalf("tshark tells of %d frames, there are %d\n%s", len(lines), len(frames), stderr.String())
	}
	told := make([]map[string][]string, len(lines))
	for i, line := range lines {
		values := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		told[i] = make(map[string][]string, len(fields))
		for j, f := range fields {
			if values[j] != "" {
				told[i][f] = strings.Split(values[j], ";")
			}
		}
	}
	return told
}
