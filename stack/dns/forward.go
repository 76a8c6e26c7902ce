package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// stagger is how long a resolver may be silent before the next one is asked as
// well. The first that replies is heard, also if it was asked earlier.
const stagger = time.Second

// forward asks the resolvers and returns what the guest gets.
func (s *Server) forward(ctx context.Context, req *request) []byte {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	reply := s.ask(ctx, cancel, req)
	if reply == nil {
		return s.reply(req, Failed, miekg.RcodeServerFailure, nil)
	}
	var records []miekg.RR
	if s.cfg.OnQuery != nil {
		var msg miekg.Msg
		if msg.Unpack(reply) == nil {
			records = msg.Answer
		}
	}
	s.done(req, Forwarded, records)
	if len(reply) > req.limit {
		return truncated(req)
	}
	return reply
}

// truncated returns a reply that holds nothing and sends the guest to TCP.
func truncated(req *request) []byte {
	msg := new(miekg.Msg)
	msg.SetReply(req.msg)
	msg.RecursionAvailable, msg.Truncated = true, true
	if req.msg.IsEdns0() != nil {
		msg.SetEdns0(ourUDPBytes, false)
	}
	return pack(msg)
}

// ask returns the first useful reply with the guest's id, or nil. A resolver
// that fails, says that it failed, or is silent for a stagger gives the next
// one its turn.
func (s *Server) ask(ctx context.Context, cancel context.CancelFunc, req *request) []byte {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	type result struct {
		server int
		reply  []byte
		err    error
	}
	results := make(chan result, len(s.cfg.Forward))
	asked, pending := 0, 0
	next := func() {
		if asked == len(s.cfg.Forward) {
			return
		}
		server := asked
		asked++
		pending++
		wg.Go(func() {
			reply, err := s.askOne(ctx, req, s.cfg.Forward[server])
			results <- result{server, reply, err}
		})
	}
	turn := time.NewTicker(stagger)
	defer turn.Stop()
	var fallback []byte // a reply that says that its resolver cannot help
	next()
	for pending > 0 {
		select {
		case r := <-results:
			pending--
			s.heard(ctx, r.server, r.err)
			switch {
			case r.err == nil && helpful(r.reply):
				return r.reply
			case r.err == nil:
				fallback = r.reply
			}
			next()
			turn.Reset(stagger)
		case <-turn.C:
			next()
		}
	}
	return fallback
}

// askOne asks one resolver under an id of our own, so that a guest with
// guessable ids is not easier to lie to.
func (s *Server) askOne(ctx context.Context, req *request, server netip.AddrPort) ([]byte, error) {
	query := slices.Clone(req.raw)
	binary.BigEndian.PutUint16(query, uint16(rand.Uint32()))
	reply, err := s.cfg.Exchange(ctx, req.network, server, query)
	if err != nil {
		return nil, err
	}
	if !answers(query, reply) {
		return nil, errNotAnswer
	}
	copy(reply, req.raw[:2])
	return reply, nil
}

// heard logs, once until it replies again, that a resolver does not.
func (s *Server) heard(ctx context.Context, server int, err error) {
	switch {
	case err == nil:
		s.silent[server].Store(false)
	case ctx.Err() == context.Canceled:
		// Nobody was waiting any more.
	case !s.silent[server].Swap(true):
		s.log.Warn("resolver does not answer", "server", s.cfg.Forward[server].String(), "err", strconv.Quote(err.Error()))
	}
}

// helpful reports whether reply settles the question. On the other codes the
// next resolver is asked, as glibc does.
func helpful(reply []byte) bool {
	switch int(reply[3] & 0xf) {
	case miekg.RcodeServerFailure, miekg.RcodeNotImplemented, miekg.RcodeRefused:
		return false
	}
	return true
}

// answers reports whether reply belongs to query: a response with the same id
// and the same question, letters compared without case. A response that
// reports a fault may leave the question out. A name that is compressed matches
// nothing: where it stands, in front of all others, it has nothing to point to.
func answers(query, reply []byte) bool {
	const qr = 0x80
	if len(reply) < headerBytes || len(reply) > miekg.MaxMsgSize || reply[2]&qr == 0 || !bytes.Equal(query[:2], reply[:2]) {
		return false
	}
	switch binary.BigEndian.Uint16(reply[4:]) {
	case 0:
		return reply[3]&0xf != miekg.RcodeSuccess
	case 1:
	default:
		return false
	}
	end := questionEnd(query)
	if end == 0 || len(reply) < end {
		return false
	}
	typeAt := end - 4
	return equalFold(query[headerBytes:typeAt], reply[headerBytes:typeAt]) && bytes.Equal(query[typeAt:end], reply[typeAt:end])
}

// questionEnd returns where the first question of msg ends, or zero if its name
// is not plain labels.
func questionEnd(msg []byte) int {
	i := headerBytes
	for i < len(msg) && msg[i] != 0 {
		if msg[i] > 63 {
			return 0
		}
		i += 1 + int(msg[i])
	}
	if end := i + 1 + 4; end <= len(msg) {
		return end
	}
	return 0
}

// equalFold compares two names as they are on the wire; lengths of labels are
// below 64 and so no letters.
func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
