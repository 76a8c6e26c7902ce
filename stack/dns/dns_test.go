package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"
)

var (
	testHosts = []Host{
		{"web", netip.MustParseAddr("198.18.0.16")},
		{"web", netip.MustParseAddr("fd74:6370:626f:78::10")},
		{"db.example", netip.MustParseAddr("198.18.0.17")},
		{"alias", netip.MustParseAddr("198.18.0.17")},
	}
	testLocal   = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/24"), netip.MustParsePrefix("fd74:6370:626f:78::/64")}
	oneServer   = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	twoServers  = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("127.0.0.2:53")}
	fromOutside = netip.MustParseAddr("192.0.2.7")
)

// replyTo returns a reply to query: rcode and, for an A question that gets
// NOERROR, the address 192.0.2.7.
func replyTo(query []byte, rcode int) []byte {
	var q, r miekg.Msg
	if err := q.Unpack(query); err != nil {
		panic(err)
	}
	r.SetRcode(&q, rcode)
	r.RecursionAvailable = true
	if rcode == miekg.RcodeSuccess && q.Question[0].Qtype == miekg.TypeA {
		r.Answer = []miekg.RR{&miekg.A{
			Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60},
			A:   fromOutside.AsSlice(),
		}}
	}
	raw, err := r.Pack()
	if err != nil {
		panic(err)
	}
	return raw
}

// outside is an Exchange that answers everything and remembers what it was
// asked.
type outside struct {
	mu    sync.Mutex
	asked []string
}

func (o *outside) exchange(_ context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	var q miekg.Msg
	if err := q.Unpack(query); err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, network+" "+q.Question[0].Name+" "+miekg.Type(q.Question[0].Qtype).String())
	return replyTo(query, miekg.RcodeSuccess), nil
}

func newServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func question(name string, qtype uint16) *miekg.Msg {
	return new(miekg.Msg).SetQuestion(name, qtype)
}

// respond returns what s replies to raw, as serving does it; nil for nothing.
func respond(s *Server, raw []byte, network string) []byte {
	req, reply := s.understand(raw, network)
	if req != nil {
		if reply = s.own(req); reply == nil {
			reply = s.forward(context.Background(), req)
		}
	}
	return reply
}

// ask returns what s replies to q, unpacked.
func ask(t testing.TB, s *Server, q *miekg.Msg, network string) *miekg.Msg {
	t.Helper()
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := respond(s, raw, network)
	if reply == nil {
		return nil
	}
	r := new(miekg.Msg)
	if err := r.Unpack(reply); err != nil {
		t.Fatalf("the reply to %v: %v", q.Question, err)
	}
	if r.Id != q.Id || !r.Response {
		t.Errorf("the reply to %v has id %d, want %d", q.Question, r.Id, q.Id)
	}
	return r
}

// data returns the answers of a reply as texts.
func data(r *miekg.Msg) []string {
	var texts []string
	for _, record := range r.Answer {
		switch record := record.(type) {
		case *miekg.A:
			texts = append(texts, record.A.String())
		case *miekg.AAAA:
			texts = append(texts, record.AAAA.String())
		case *miekg.PTR:
			texts = append(texts, record.Ptr)
		default:
			texts = append(texts, record.String())
		}
	}
	return texts
}

func TestAnswers(t *testing.T) {
	const (
		noerror  = miekg.RcodeSuccess
		nxdomain = miekg.RcodeNameError
		refused  = miekg.RcodeRefused
	)
	web6 := "fd74:6370:626f:78::10"
	arpa6, _ := miekg.ReverseAddr(web6)
	free6, _ := miekg.ReverseAddr("fd74:6370:626f:78::99")
	tests := []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
		auth  bool
		sent  bool // forwarded
	}{
		// Names of the sandbox: addresses, in any case of letters.
		{"web.", miekg.TypeA, noerror, []string{"198.18.0.16"}, true, false},
		{"WeB.", miekg.TypeA, noerror, []string{"198.18.0.16"}, true, false},
		{"web.", miekg.TypeAAAA, noerror, []string{web6}, true, false},
		{"db.example.", miekg.TypeA, noerror, []string{"198.18.0.17"}, true, false},
		{"db.example.", miekg.TypeAAAA, noerror, nil, true, false},

		// Names that belong to them, by RFC 8552.
		{"_8080._https.web.", miekg.TypeHTTPS, nxdomain, nil, true, false},
		{"_443._tcp.DB.example.", miekg.TypeTLSA, nxdomain, nil, true, false},
		{"_web.", miekg.TypeA, noerror, []string{"192.0.2.7"}, false, true},
		{"_a.webs.", miekg.TypeTXT, noerror, nil, false, true},

		// Only these: what is below or beside is somebody else's.
		{"www.db.example.", miekg.TypeA, noerror, []string{"192.0.2.7"}, false, true},
		{"web.corp.example.", miekg.TypeA, noerror, []string{"192.0.2.7"}, false, true},
		{"we\\.b.", miekg.TypeA, noerror, []string{"192.0.2.7"}, false, true},

		// Reverse.
		{"16.0.18.198.in-addr.arpa.", miekg.TypePTR, noerror, []string{"web."}, true, false},
		{"17.0.18.198.IN-ADDR.arpa.", miekg.TypePTR, noerror, []string{"db.example.", "alias."}, true, false},
		{arpa6, miekg.TypePTR, noerror, []string{"web."}, true, false},
		{arpa6, miekg.TypeTXT, noerror, nil, true, false},
		{"99.0.18.198.in-addr.arpa.", miekg.TypePTR, nxdomain, nil, true, false},
		{free6, miekg.TypePTR, nxdomain, nil, true, false},
		{"1.2.0.192.in-addr.arpa.", miekg.TypePTR, noerror, nil, false, true},

		// The guest itself.
		{"localhost.", miekg.TypeA, noerror, []string{"127.0.0.1"}, true, false},
		{"x.LOCALHOST.", miekg.TypeAAAA, noerror, []string{"::1"}, true, false},
		{"localhost.", miekg.TypeMX, noerror, nil, true, false},

		// What is not asked for others.
		{"example.", miekg.TypeAXFR, refused, nil, false, false},
		{"example.", miekg.TypeIXFR, refused, nil, false, false},
	}
	for _, tt := range tests {
		var out outside
		s := newServer(t, Config{Hosts: testHosts, Local: testLocal, Forward: oneServer, Exchange: out.exchange})
		r := ask(t, s, question(tt.name, tt.qtype), "udp")
		if r.Rcode != tt.rcode || !slices.Equal(data(r), tt.want) || r.Authoritative != tt.auth || len(out.asked) > 0 != tt.sent {
			t.Errorf("%s %s: %s %q, authoritative %v, asked outside %q; want %s %q, %v, %v", tt.name, miekg.Type(tt.qtype),
				miekg.RcodeToString[r.Rcode], data(r), r.Authoritative, out.asked, miekg.RcodeToString[tt.rcode], tt.want, tt.auth, tt.sent)
		}
		if !r.RecursionAvailable {
			t.Errorf("%s %s: recursion is said not to be available", tt.name, miekg.Type(tt.qtype))
		}
	}
}

func TestNamesOfTheSandboxAreNeverForwarded(t *testing.T) {
	var out outside
	s := newServer(t, Config{Hosts: testHosts, Forward: oneServer, Exchange: out.exchange})
	for qtype := range uint16(1 << 10) {
		for _, name := range []string{"web.", "DB.Example.", "_x._y.web.", "16.0.18.198.in-addr.arpa.", "localhost."} {
			r := ask(t, s, question(name, qtype), "udp")
			if qtype == miekg.TypeA || qtype == miekg.TypeAAAA || qtype == miekg.TypePTR {
				continue
			}
			if r == nil || len(r.Answer) != 0 {
				t.Errorf("%s %s: %v, want no records", name, miekg.Type(qtype), r)
			}
		}
	}
	if len(out.asked) != 0 {
		t.Errorf("asked outside: %q", out.asked)
	}
}

func TestWithoutForwardersOtherNamesDoNotExist(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts, Exchange: func(context.Context, string, netip.AddrPort, []byte) ([]byte, error) {
		t.Error("a name was forwarded")
		return nil, errors.New("no")
	}})
	for _, name := range []string{"example.com.", "nosuch.", "com.", "."} {
		if r := ask(t, s, question(name, miekg.TypeA), "udp"); r.Rcode != miekg.RcodeNameError {
			t.Errorf("%s: %s, want NXDOMAIN", name, miekg.RcodeToString[r.Rcode])
		}
	}
	if got := s.Stats(); got.Refused != 4 || got.Queries != 4 {
		t.Errorf("Stats() = %+v, want 4 queries refused", got)
	}
}

func TestSetHosts(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	if err := s.SetHosts([]Host{{"a b", fromOutside}}); err == nil {
		t.Error("SetHosts took a name with a blank")
	}
	if got := data(ask(t, s, question("web.", miekg.TypeA), "udp")); len(got) != 1 {
		t.Errorf("web. after a SetHosts that failed = %q, want it as before", got)
	}
	if err := s.SetHosts([]Host{{"new", fromOutside}}); err != nil {
		t.Fatal(err)
	}
	if got := data(ask(t, s, question("new.", miekg.TypeA), "udp")); !slices.Equal(got, []string{"192.0.2.7"}) {
		t.Errorf("new. = %q, want 192.0.2.7", got)
	}
	if r := ask(t, s, question("web.", miekg.TypeA), "udp"); r.Rcode != miekg.RcodeNameError {
		t.Errorf("web. after SetHosts = %v, want NXDOMAIN", r)
	}
}

func TestMessagesThatAreNoQueries(t *testing.T) {
	plain, _ := question("web.", miekg.TypeA).Pack()
	edit := func(change func(*miekg.Msg)) []byte {
		q := question("web.", miekg.TypeA)
		change(q)
		raw, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	pointer := slices.Clone(plain)
	pointer[12], pointer[13] = 0xc0, 0x02 // the name points into the header
	none := -1
	tests := []struct {
		what  string
		raw   []byte
		rcode int
	}{
		{"nothing", nil, none},
		{"less than a header", plain[:11], none},
		{"a response", edit(func(m *miekg.Msg) { m.Response = true }), none},
		{"more than a query has", make([]byte, MaxQueryBytes+1), none},
		{"a header alone", plain[:12], miekg.RcodeFormatError},
		{"half a question", plain[:14], miekg.RcodeFormatError},
		{"a name that points", pointer, miekg.RcodeFormatError},
		{"two questions", edit(func(m *miekg.Msg) { m.Question = append(m.Question, m.Question[0]) }), miekg.RcodeFormatError},
		{"an answer", edit(func(m *miekg.Msg) {
			m.Answer = []miekg.RR{&miekg.TXT{Hdr: miekg.RR_Header{Name: "x.", Rrtype: 16, Class: 1}, Txt: []string{"x"}}}
		}), miekg.RcodeFormatError},
		{"a notification", edit(func(m *miekg.Msg) { m.Opcode = miekg.OpcodeNotify }), miekg.RcodeNotImplemented},
		{"an update", edit(func(m *miekg.Msg) { m.Opcode = miekg.OpcodeUpdate }), miekg.RcodeNotImplemented},
		{"another class", edit(func(m *miekg.Msg) { m.Question[0].Qclass = miekg.ClassCHAOS }), miekg.RcodeRefused},
		{"a later EDNS", edit(func(m *miekg.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), miekg.RcodeBadVers},
	}
	for _, tt := range tests {
		s := newServer(t, Config{Hosts: testHosts})
		reply := respond(s, tt.raw, "udp")
		if tt.rcode == none {
			if reply != nil {
				t.Errorf("%s: a reply, want none", tt.what)
			}
			if s.Stats().Malformed != 1 {
				t.Errorf("%s: not counted", tt.what)
			}
			continue
		}
		var r miekg.Msg
		if err := r.Unpack(reply); err != nil {
			t.Errorf("%s: reply %x: %v", tt.what, reply, err)
			continue
		}
		if r.Rcode != tt.rcode || r.Id != binary.BigEndian.Uint16(tt.raw) {
			t.Errorf("%s: %s id %d, want %s and the query's id", tt.what, miekg.RcodeToString[r.Rcode], r.Id, miekg.RcodeToString[tt.rcode])
		}
	}
}

func TestLongAnswersAreTruncatedOverUDP(t *testing.T) {
	var many []Host
	for i := range 200 {
		many = append(many, Host{"many", netip.AddrFrom4([4]byte{198, 18, 1, byte(i)})})
	}
	s := newServer(t, Config{Hosts: many})
	for _, tt := range []struct {
		network string
		edns    uint16
		whole   bool
	}{
		{"udp", 0, false},
		{"udp", 100, false},
		{"udp", 1232, false},
		{"udp", 4096, true},
		{"tcp", 0, true},
		{"tcp", 512, true},
	} {
		q := question("many.", miekg.TypeA)
		if tt.edns > 0 {
			q.SetEdns0(tt.edns, false)
		}
		r := ask(t, s, q, tt.network)
		want := 0
		if tt.whole {
			want = 200
		}
		if r.Truncated == tt.whole || len(r.Answer) != want || (r.IsEdns0() != nil) != (tt.edns > 0) {
			t.Errorf("over %s with EDNS size %d: truncated %v, %d records, EDNS %v", tt.network, tt.edns, r.Truncated, len(r.Answer), r.IsEdns0())
		}
	}
}

func TestOnQuery(t *testing.T) {
	var out outside
	var got []Query
	s := newServer(t, Config{Hosts: testHosts, Forward: oneServer, Exchange: out.exchange, OnQuery: func(q Query) { got = append(got, q) }})
	ask(t, s, question("WEB.", miekg.TypeA), "udp")
	ask(t, s, question("example.com.", miekg.TypeA), "tcp")
	ask(t, s, question("web.", 4711), "udp")
	ask(t, s, question("a\x07b.", miekg.TypeAXFR), "udp")
	want := []Query{
		{"web", "A", Answered, []netip.Addr{netip.MustParseAddr("198.18.0.16")}},
		{"example.com", "A", Forwarded, []netip.Addr{fromOutside}},
		{"web", "TYPE4711", Answered, nil},
		{`a\007b`, "AXFR", Refused, nil},
	}
	if !slices.EqualFunc(got, want, func(a, b Query) bool {
		return a.Name == b.Name && a.Type == b.Type && a.Outcome == b.Outcome && slices.Equal(a.Addrs, b.Addrs)
	}) {
		t.Errorf("OnQuery got %v, want %v", got, want)
	}
}

func TestOutcomeStrings(t *testing.T) {
	for outcome, want := range map[Outcome]string{0: "none", Answered: "answered", Dropped: "dropped", 77: "Outcome(77)"} {
		if got := outcome.String(); got != want {
			t.Errorf("Outcome(%d).String() = %q, want %q", uint8(outcome), got, want)
		}
	}
}
