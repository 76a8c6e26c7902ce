package document

import (
	"slices"

	"tcpbox/policy/knob"
)

// Presets are the settings that a preset stands for, by its name. They are for
// reading only.
//
// linux is the defaults of the table of knobs, and has none of its own.
//
// windows: TcpTimedWaitDelay was 240 s by default until Windows Server 2003
// (Microsoft, "Tcpip and Nbt configuration parameters"); SYNs are sent again
// twice (netsh, MaxSynRetransmissions); the dynamic ports are 49152 to 65535
// (RFC 6335); keep-alive probes come each second, ten of them
// (SIO_KEEPALIVE_VALS).
//
// bsd: TIME-WAIT lasts twice net.inet.tcp.msl, which is 30 s; SYN-ACKs are sent
// again three times (syncache.rexmtlimit); probes are eight (FreeBSD, tcp(4));
// ports are 10000 to 65535 (ip(4), portrange).
//
// legacy-web is what old guides for web servers teach: tcp_tw_recycle = 1,
// tcp_tw_reuse = 1 and tcp_fin_timeout = 30. What each of them really does, the
// settings say themselves (knob.Note), which those of the other presets do not:
// hence its other source.
var Presets = map[string][]knob.Setting{
	"linux": nil,
	"windows": preset("windows",
		"time-wait.timeout=240s", "syn-retries=2", "keepalive.interval=1s", "keepalive.count=10", "port-range=49152-65535"),
	"legacy-web": sourced("the preset legacy-web",
		"time-wait.recycle=on", "time-wait.reuse=on", "fin-timeout=30s"),
	"bsd": preset("bsd",
		"time-wait.timeout=60s", "synack-retries=3", "keepalive.count=8", "port-range=10000-65535"),
}

// PresetNames are the keys of Presets, sorted.
func PresetNames() []string {
	var names []string
	for name := range Presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func preset(name string, texts ...string) []knob.Setting { return sourced("preset "+name, texts...) }

// sourced panics if the table of knobs does not have what it names.
func sourced(source string, texts ...string) []knob.Setting {
	var settings []knob.Setting
	for _, text := range texts {
		s, err := knob.ParseSetting(text)
		if err != nil {
			panic(err)
		}
		s.Source = source
		settings = append(settings, s)
	}
	return settings
}
