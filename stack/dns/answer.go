package dns

import (
	"net/netip"
	"strings"

	miekg "github.com/miekg/dns"
)

const (
	headerBytes = 12  // RFC 1035, section 4.1.1
	minUDPBytes = 512 // what every client takes over UDP (RFC 1035, section 2.3.4)

	// ourUDPBytes is the UDP size that replies of our own announce (RFC 6891,
	// section 6.2.3): no IPv6 path fragments it.
	ourUDPBytes = 1232

	// hostTTL is the time to live of names of the sandbox, in seconds: short,
	// for they can change while it runs.
	hostTTL = 5
)

// request is a query that was understood.
type request struct {
	raw     []byte
	msg     *miekg.Msg
	network string // "udp" or "tcp": how it came and how it is forwarded
	limit   int    // the longest reply that the guest takes, in bytes
	name    string // lower case, without the last dot
	qtype   uint16
}

// understand reads raw. A nil request comes with the reply that says why, or
// with none where a reply is not due. raw may be anything.
func (s *Server) understand(raw []byte, network string) (*request, []byte) {
	const qr = 0x80 // in the third byte: a response (RFC 1035, section 4.1.1)
	if len(raw) < headerBytes || len(raw) > MaxQueryBytes || raw[2]&qr != 0 {
		s.malformed.Add(1)
		return nil, nil
	}
	msg := new(miekg.Msg)
	if err := msg.Unpack(raw); err != nil || !simple(msg) || questionEnd(raw) == 0 {
		s.malformed.Add(1)
		// Unpack reads the header before it fails; the question is not echoed.
		reply := &miekg.Msg{MsgHdr: miekg.MsgHdr{Id: msg.Id, Response: true, Opcode: msg.Opcode, RecursionDesired: msg.RecursionDesired}}
		reply.Rcode = miekg.RcodeFormatError
		if msg.Opcode != miekg.OpcodeQuery {
			reply.Rcode = miekg.RcodeNotImplemented
		}
		return nil, pack(reply)
	}
	question := msg.Question[0]
	req := &request{
		raw:     raw,
		msg:     msg,
		network: network,
		limit:   miekg.MaxMsgSize,
		name:    strings.TrimSuffix(miekg.CanonicalName(question.Name), "."),
		qtype:   question.Qtype,
	}
	opt := msg.IsEdns0()
	if network == "udp" {
		req.limit = minUDPBytes
		if opt != nil {
			req.limit = max(minUDPBytes, int(opt.UDPSize()))
		}
	}
	s.queries.Add(1)
	switch {
	case opt != nil && opt.Version() != 0:
		return nil, s.refuse(req, miekg.RcodeBadVers) // RFC 6891, section 6.1.3
	case question.Qclass != miekg.ClassINET:
		return nil, s.refuse(req, miekg.RcodeRefused)
	case req.qtype == miekg.TypeAXFR || req.qtype == miekg.TypeIXFR:
		return nil, s.refuse(req, miekg.RcodeRefused)
	}
	return req, nil
}

// simple reports whether msg is a standard query: one question (RFC 9619) and
// nothing else but, at most, one OPT record.
func simple(msg *miekg.Msg) bool {
	if msg.Opcode != miekg.OpcodeQuery || len(msg.Question) != 1 || len(msg.Answer) != 0 || len(msg.Ns) != 0 || len(msg.Extra) > 1 {
		return false
	}
	return len(msg.Extra) == 0 || msg.IsEdns0() != nil
}

// own answers req from what the sandbox knows itself, and returns nil if req
// is to be forwarded.
func (s *Server) own(req *request) []byte {
	hosts := s.hosts.Load()
	addrs, ours := hosts.addrs[req.name]
	if !ours && isLocalhost(req.name) {
		addrs, ours = localhost, true
	}
	if ours {
		return s.answer(req, addrs)
	}
	if _, ours := hosts.owner(req.name); ours {
		return s.reply(req, Answered, miekg.RcodeNameError, nil)
	}
	if addr, ok := reversed(req.name); ok {
		if names, ours := hosts.names[addr]; ours {
			return s.answerReverse(req, names)
		}
		for _, prefix := range s.cfg.Local {
			if prefix.Contains(addr) {
				return s.reply(req, Answered, miekg.RcodeNameError, nil)
			}
		}
	}
	if len(s.cfg.Forward) == 0 {
		return s.refuse(req, miekg.RcodeNameError)
	}
	return nil
}

var localhost = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// answer replies with those of addrs that the question's type asks for.
func (s *Server) answer(req *request, addrs []netip.Addr) []byte {
	var records []miekg.RR
	for _, addr := range addrs {
		header := miekg.RR_Header{Name: req.msg.Question[0].Name, Rrtype: req.qtype, Class: miekg.ClassINET, Ttl: hostTTL}
		switch {
		case req.qtype == miekg.TypeA && addr.Is4():
			records = append(records, &miekg.A{Hdr: header, A: addr.AsSlice()})
		case req.qtype == miekg.TypeAAAA && addr.Is6():
			records = append(records, &miekg.AAAA{Hdr: header, AAAA: addr.AsSlice()})
		}
	}
	return s.reply(req, Answered, miekg.RcodeSuccess, records)
}

// answerReverse replies with names, if the question's type is PTR.
func (s *Server) answerReverse(req *request, names []string) []byte {
	var records []miekg.RR
	if req.qtype == miekg.TypePTR {
		for _, name := range names {
			header := miekg.RR_Header{Name: req.msg.Question[0].Name, Rrtype: req.qtype, Class: miekg.ClassINET, Ttl: hostTTL}
			records = append(records, &miekg.PTR{Hdr: header, Ptr: name + "."})
		}
	}
	return s.reply(req, Answered, miekg.RcodeSuccess, records)
}

func (s *Server) refuse(req *request, rcode int) []byte {
	return s.reply(req, Refused, rcode, nil)
}

// reply counts the outcome, tells OnQuery, and returns a reply of our own.
func (s *Server) reply(req *request, outcome Outcome, rcode int, records []miekg.RR) []byte {
	msg := new(miekg.Msg)
	msg.SetRcode(req.msg, rcode)
	msg.RecursionAvailable = true
	msg.Authoritative = outcome == Answered
	msg.Answer = records
	if req.msg.IsEdns0() != nil {
		msg.SetEdns0(ourUDPBytes, false) // RFC 6891, section 6.1.1
	}
	msg.Compress = true
	s.done(req, outcome, records)
	if msg.Truncate(req.limit); msg.Truncated {
		// A client that asks again over TCP uses nothing of what did fit.
		msg.Answer = nil
	}
	return pack(msg)
}

// done counts the outcome and tells OnQuery.
func (s *Server) done(req *request, outcome Outcome, records []miekg.RR) {
	s.outcomes[outcome].Add(1)
	if s.cfg.OnQuery == nil {
		return
	}
	query := Query{Name: req.name, Type: miekg.Type(req.qtype).String(), Outcome: outcome}
	for _, record := range records {
		var addr netip.Addr
		var ok bool
		switch r := record.(type) {
		case *miekg.A:
			addr, ok = netip.AddrFromSlice(r.A)
		case *miekg.AAAA:
			addr, ok = netip.AddrFromSlice(r.AAAA)
		}
		if ok {
			query.Addrs = append(query.Addrs, addr.Unmap())
		}
	}
	s.cfg.OnQuery(query)
}

// pack returns the bytes of msg. Messages of our own always have some; should
// one not, the guest gets no reply and asks again.
func pack(msg *miekg.Msg) []byte {
	raw, err := msg.Pack()
	if err != nil {
		return nil
	}
	return raw
}
