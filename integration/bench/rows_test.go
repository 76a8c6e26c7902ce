package bench

import "time"

// A row of the table: a task, and what is made of a sample of it.
type row struct {
	name  string
	unit  string
	task  task
	value func(s sample) float64
	stack bool // it is about the stack's process, which the kernel's way has not
	once  bool // in the first round only: it varies little and takes long
}

// less reports whether less of the row's unit is better.
func less(unit string) bool {
	switch unit {
	case "Gbit/s", "conn/s", "packets/s":
		return false
	}
	return true
}

func rate(s sample) float64           { return float64(s.Done) / s.Seconds }
func gbits(s sample) float64          { return rate(s) * 8 / 1e9 }
func cpuPerGB(s sample) float64       { return s.CPU / (float64(s.Done) / 1e9) }
func cpuPerThousand(s sample) float64 { return s.CPU / (float64(s.Done) / 1000) }
func kibEach(s sample) float64        { return (s.RSS - s.Idle) / 1024 / float64(s.Done) }
func mibs(s sample) float64           { return s.RSS / (1 << 20) }

// rows are the tasks, each of which lasts for length; held is how many
// connections the largest of them holds.
func rows(length time.Duration, held int) []row {
	// A client that closes first holds a port of the uplink for a minute.
	const shorts = 20000
	up := task{Kind: kindUp, Length: length, Streams: 1}
	up4 := task{Kind: kindUp, Length: length, Streams: 4}
	down := task{Kind: kindDown, Length: length, Streams: 1}
	down4 := task{Kind: kindDown, Length: length, Streams: 4}
	one := task{Kind: kindShort, Length: length, Count: shorts, Streams: 1}
	oneByPeer := task{Kind: kindShort, Length: length, Count: shorts, Streams: 1, ByPeer: true}
	many := task{Kind: kindShort, Length: length, Count: shorts, Streams: 32}
	manyByPeer := task{Kind: kindShort, Length: length, Count: shorts, Streams: 32, ByPeer: true}
	ping := task{Kind: kindPing, Length: length, Streams: 1}
	udp := task{Kind: kindUDP, Length: length, Streams: 1}
	idle := task{Kind: kindHold, Streams: 1}
	return []row{
		{"bulk up, 1 stream", "Gbit/s", up, gbits, false, false},
		{"bulk up, 4 streams", "Gbit/s", up4, gbits, false, false},
		{"bulk down, 1 stream", "Gbit/s", down, gbits, false, false},
		{"bulk down, 4 streams", "Gbit/s", down4, gbits, false, false},
		{"short, 1 at a time, client closes first", "conn/s", one, rate, false, false},
		{"short, 1 at a time, server closes first", "conn/s", oneByPeer, rate, false, false},
		{"short, 32 at once, client closes first", "conn/s", many, rate, false, false},
		{"short, 32 at once, server closes first", "conn/s", manyByPeer, rate, false, false},
		{"1 byte there and back, p50", "µs", ping, func(s sample) float64 { return s.P50 * 1e6 }, false, false},
		{"1 byte there and back, p99", "µs", ping, func(s sample) float64 { return s.P99 * 1e6 }, false, false},
		{"UDP, 64 bytes there and back, 32 under way", "packets/s", udp, rate, false, false},
		{"CPU of the stack, bulk up", "s/GB", up, cpuPerGB, true, false},
		{"CPU of the stack, bulk down", "s/GB", down, cpuPerGB, true, false},
		{"CPU of the stack, short connections", "s/1000", one, cpuPerThousand, true, false},
		{"memory, idle", "MiB", idle, mibs, true, true},
		{"memory, 1000 connections", "MiB", task{Kind: kindHold, Count: held / 10, Streams: 10}, mibs, true, true},
		{"memory, 10000 connections", "MiB", task{Kind: kindHold, Count: held, Streams: 10}, mibs, true, true},
	}
}
