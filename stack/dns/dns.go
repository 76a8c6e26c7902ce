// Package dns is the resolver that the guest sees: it answers for the names of
// a sandbox itself (peers, --add-host) and forwards what is left to resolvers
// of the host, if there are any to forward to.
//
// New makes a Server; ServePacket and ServeStream serve on sockets that the
// caller made, in a sandbox those of the embedded stack. The package neither
// writes resolv.conf nor decides who may be resolved. It has no cache.
//
// What a query meets, in this order:
//
//	not a query, or not readable     dropped, or FORMERR, NOTIMP, REFUSED
//	a name of Hosts                  A, AAAA: its addresses; other types: none
//	_service._proto.NAME of such     NXDOMAIN
//	an address of Hosts, reversed    PTR: its names
//	localhost, NAME.localhost        127.0.0.1 and ::1 (RFC 6761, section 6.3)
//	an address of Local, reversed    NXDOMAIN
//	anything else                    forwarded; without forwarders NXDOMAIN
//
// Only the last line can reach the network, and no record type of a name above
// it does.
//
// NXDOMAIN, not REFUSED, is what says that there is nobody to ask. Measured
// with glibc 2.36 and one name server: NXDOMAIN makes getaddrinfo(3) return
// EAI_NONAME ("Name or service not known") after one query for each address
// family; REFUSED and SERVFAIL make it ask everything twice and then return
// EAI_AGAIN ("Temporary failure in name resolution"), which programs take as an
// invitation to try again.
package dns

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Defaults of Config, and limits that have no option.
const (
	DefaultMaxQueries   = 256
	DefaultMaxStreams   = 64
	DefaultQueryTimeout = 5 * time.Second
	DefaultIdleTimeout  = 10 * time.Second

	// MaxQueryBytes is the longest query that is read, over either transport.
	// Queries of programs have well under 512 bytes.
	MaxQueryBytes = 4096
)

// Config says what a Server answers and how much it takes on.
type Config struct {
	// Hosts are the names that the sandbox itself has.
	Hosts []Host

	// Local are the sandbox's own subnets. What their addresses are called is
	// never asked outside.
	Local []netip.Prefix

	// Forward are the resolvers to ask for other names, in order of preference.
	// Empty means that other names do not exist.
	Forward []netip.AddrPort

	// Exchange asks a resolver of Forward. Nil means ExchangeHost.
	Exchange Exchange

	// MaxQueries is how many forwarded queries may be waiting at once; more are
	// dropped. Zero means DefaultMaxQueries. Names that need no forwarding are
	// answered whatever is waiting.
	MaxQueries int

	// MaxStreams is how many TCP connections may be open at once; more are
	// closed. Zero means DefaultMaxStreams.
	MaxStreams int

	// QueryTimeout is how long a forwarded query may take, over all resolvers.
	// Then the guest gets SERVFAIL. Zero means DefaultQueryTimeout.
	QueryTimeout time.Duration

	// IdleTimeout closes a TCP connection on which no whole query has come for
	// this long. Zero means DefaultIdleTimeout.
	IdleTimeout time.Duration

	// OnQuery, if not nil, is told of each query that was understood, before the
	// guest has its answer, so that the name is known when the guest connects.
	// It is called from many goroutines and must not block.
	OnQuery func(Query)

	// Log takes diagnostics; nil discards them.
	Log *slog.Logger
}

// Query is one question of the guest and what became of it.
type Query struct {
	Name    string // lower case, without the last dot, unusual bytes as \DDD
	Type    string // "A", "HTTPS", "TYPE4711"
	Outcome Outcome
	Addrs   []netip.Addr // the addresses in the answer; owned by the receiver
}

// Outcome is what became of a query. The zero Outcome is none.
type Outcome uint8

// The outcomes.
const (
	Answered  Outcome = iota + 1 // from Hosts or another name of the sandbox's own
	Forwarded                    // a resolver replied, whatever its reply says
	Refused                      // nobody to ask, or a thing that is not asked for others
	Failed                       // no resolver replied in time
	Dropped                      // MaxQueries were waiting already

	numOutcomes
)

var outcomeNames = [numOutcomes]string{"none", "answered", "forwarded", "refused", "failed", "dropped"}

// String returns "answered", "forwarded", "refused", "failed" or "dropped".
func (o Outcome) String() string {
	if o < numOutcomes {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// Stats counts what a Server has done since it was made.
type Stats struct {
	Queries   uint64 `json:"queries"` // messages that were queries and could be read
	Answered  uint64 `json:"answered"`
	Forwarded uint64 `json:"forwarded"`
	Refused   uint64 `json:"refused"`
	Failed    uint64 `json:"failed"`
	Dropped   uint64 `json:"dropped"`
	Malformed uint64 `json:"malformed"` // messages that were too long, or no query, or unreadable
	Streams   uint64 `json:"streams"`   // TCP connections accepted
	Turned    uint64 `json:"turned"`    // TCP connections turned away over MaxStreams
}

// Server answers DNS queries. Its methods are safe for concurrent use.
type Server struct {
	cfg   Config
	log   *slog.Logger
	hosts atomic.Pointer[table]

	waiting chan struct{} // one element for each forwarded query in progress
	streams chan struct{} // one element for each TCP connection
	silent  []atomic.Bool // for each of cfg.Forward: it has been reported

	queries, malformed, accepted, turned atomic.Uint64
	outcomes                             [numOutcomes]atomic.Uint64
}

// New returns a Server for cfg, or every fault that cfg has, joined.
func New(cfg Config) (*Server, error) {
	var errs []error
	hosts, err := newTable(cfg.Hosts)
	if err != nil {
		errs = append(errs, err)
	}
	for _, server := range cfg.Forward {
		if err := checkServer(server); err != nil {
			errs = append(errs, fmt.Errorf("dns: forward to %v: %w", server, err))
		}
	}
	if cfg.MaxQueries < 0 || cfg.MaxStreams < 0 || cfg.QueryTimeout < 0 || cfg.IdleTimeout < 0 {
		errs = append(errs, errors.New("dns: a limit is negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	setDefault(&cfg.MaxQueries, DefaultMaxQueries)
	setDefault(&cfg.MaxStreams, DefaultMaxStreams)
	setDefault(&cfg.QueryTimeout, DefaultQueryTimeout)
	setDefault(&cfg.IdleTimeout, DefaultIdleTimeout)
	if cfg.Exchange == nil {
		cfg.Exchange = ExchangeHost
	}
	cfg.Forward = slices.Clone(cfg.Forward)
	cfg.Local = slices.Clone(cfg.Local)
	s := &Server{
		cfg:     cfg,
		log:     cfg.Log,
		waiting: make(chan struct{}, cfg.MaxQueries),
		streams: make(chan struct{}, cfg.MaxStreams),
		silent:  make([]atomic.Bool, len(cfg.Forward)),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.hosts.Store(hosts)
	return s, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// SetHosts replaces all names of the sandbox at once, while serving. On an
// error nothing changes.
func (s *Server) SetHosts(hosts []Host) error {
	t, err := newTable(hosts)
	if err != nil {
		return err
	}
	s.hosts.Store(t)
	return nil
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{
		Queries:   s.queries.Load(),
		Answered:  s.outcomes[Answered].Load(),
		Forwarded: s.outcomes[Forwarded].Load(),
		Refused:   s.outcomes[Refused].Load(),
		Failed:    s.outcomes[Failed].Load(),
		Dropped:   s.outcomes[Dropped].Load(),
		Malformed: s.malformed.Load(),
		Streams:   s.accepted.Load(),
		Turned:    s.turned.Load(),
	}
}
