package netstack

import (
	"io"
	"log/slog"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"tcpbox/stack/tcpstate"
	"tcpbox/tun"
)

// Defaults of Config.
const (
	DefaultSYNBacklog  = 1024
	DefaultMaxPending  = 8192
	DefaultSYNFlood    = 100              // SYNs dropped in a second
	DefaultTimeWait    = 60 * time.Second // as Linux, TCP_TIMEWAIT_LEN
	DefaultFINTimeout  = 60 * time.Second // as Linux, net.ipv4.tcp_fin_timeout
	DefaultTimeWaitMax = 65536            // as Linux, net.ipv4.tcp_max_tw_buckets
	DefaultReuseDelay  = time.Second      // as Linux, net.ipv4.tcp_tw_reuse_delay
	DefaultFirstPort   = 32768            // as Linux, net.ipv4.ip_local_port_range
	DefaultLastPort    = 60999
	// As Linux, net.ipv4.tcp_synack_retries and tcp_keepalive_time, _intvl and _probes.
	DefaultOrphanTimeout     = 10 * time.Minute
	DefaultOrphanRetries     = 8 // as Linux, net.ipv4.tcp_orphan_retries
	DefaultOrphanMax         = 16384
	DefaultSYNACKRetries     = 5
	DefaultKeepAliveIdle     = 2 * time.Hour
	DefaultKeepAliveInterval = 75 * time.Second
	DefaultKeepAliveCount    = 9

	bufferSizeBytes    = 1 << 20
	maxBufferSizeBytes = 4 << 20
)

// Config is what New needs. The zero value of a field means its default.
type Config struct {
	// Device carries the guest's packets. The Stack reads it from Run on and
	// closes it in Close.
	Device tun.Device

	// Addrs are the stack's own addresses, the guest's gateways. The stack
	// answers pings to them.
	Addrs []netip.Addr

	// Guest are the prefixes a packet from the guest may come from; others are
	// dropped and counted. Empty means every source.
	Guest []netip.Prefix

	// OnSYN is called in a goroutine of its own for each connection the guest
	// asks for, once per connection. It must end the Request with one of its
	// methods.
	OnSYN func(*Request)

	// OnOther is called for a UDP datagram or an echo request that nothing in
	// the stack takes. The stack has answered it with an ICMP error. It must
	// not block. Nil means nobody asks.
	OnOther func(Other)

	// OnUDP takes the guest's datagrams to addresses that are not the stack's
	// own. It must not block, and reports false for one that is to be refused.
	// Nil refuses all.
	OnUDP func(Datagram) bool

	// OwnUDP reports whether a datagram to one of Addrs is for OnUDP too, rather
	// than for a socket of ListenUDP. It must not block. Nil means that none is.
	OwnUDP func(src, dst netip.AddrPort) bool

	// OnEcho is OnUDP for echo requests.
	OnEcho func(Echo) bool

	// OnEchoReply is OnEcho for echo replies, whose source is who was asked. Nil
	// means that nobody waits for any.
	OnEchoReply func(Echo) bool

	// OnPathError is told of ICMP errors about datagrams and echo requests that
	// the Stack has sent. It must not block. Nil means that no one asks.
	OnPathError func(PathError)

	// OnNoPort is told that the guest has answered a datagram from remote with
	// "port unreachable": no socket has the port guest any more. It must not
	// block. Nil means that no one asks.
	OnNoPort func(guest, remote netip.AddrPort)

	// Sink takes every TCP state transition. It is called under locks; see
	// tcpstate.Sink. Nil means that no one asks.
	Sink tcpstate.Sink

	// Numbers are those of the sandbox's connections. Nil means that the Stack
	// alone gives them.
	Numbers *tcpstate.Numbers

	// SYNBacklog is the largest number of half-open handshakes, that is of
	// endpoints in SYN-RECEIVED. Zero means DefaultSYNBacklog.
	SYNBacklog int

	// MaxPending is the largest number of Requests not yet ended, and half of
	// it the largest number for one destination. Zero means DefaultMaxPending.
	MaxPending int

	// Log is told when a flood of SYNs begins and when it is over, at level
	// warn. Nil discards.
	Log *slog.Logger

	// Clock drives all timers. Nil means the system's clock.
	Clock tcpip.Clock

	// Random is where initial sequence numbers come from. Only a simulation that
	// is to go the same way each time sets it. Nil means the system's generator.
	Random io.Reader
}

// Other is a packet that is not TCP and that nothing in the stack takes.
type Other struct {
	UDP      bool // else an ICMP echo request
	Src, Dst netip.AddrPort
}
