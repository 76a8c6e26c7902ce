package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	miekg "github.com/miekg/dns"
)

// Exchange sends query to server over network, "udp" or "tcp", and returns the
// reply. Neither has the two bytes of length that TCP puts before them. It
// returns promptly when ctx ends, keeps nothing of query, and gives reply away.
type Exchange func(ctx context.Context, network string, server netip.AddrPort, query []byte) (reply []byte, err error)

var errNotAnswer = errors.New("the reply is not to the question")

var replyBuffers = sync.Pool{New: func() any { return new([miekg.MaxMsgSize]byte) }}

// ExchangeHost is the Exchange over sockets of the process's own network
// namespace. Over UDP it passes over datagrams that are not the reply.
func ExchangeHost(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	if len(query) < headerBytes || len(query) > miekg.MaxMsgSize {
		return nil, fmt.Errorf("dns: exchange: a query of %d bytes", len(query))
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("dns: exchange: %w", err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var reply []byte
	if network == "tcp" {
		reply, err = exchangeStream(conn, query)
	} else {
		reply, err = exchangeDatagram(conn, query)
	}
	if err != nil {
		return nil, fmt.Errorf("dns: exchange with %v over %s: %w", server, network, err)
	}
	return reply, nil
}

func exchangeDatagram(conn net.Conn, query []byte) ([]byte, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buffer := replyBuffers.Get().(*[miekg.MaxMsgSize]byte)
	defer replyBuffers.Put(buffer)
	for {
		n, err := conn.Read(buffer[:])
		if err != nil {
			return nil, err
		}
		if answers(query, buffer[:n]) {
			return slices.Clone(buffer[:n]), nil
		}
	}
}

func exchangeStream(conn net.Conn, query []byte) ([]byte, error) {
	if err := writeMessage(conn, query); err != nil {
		return nil, err
	}
	return readMessage(conn, miekg.MaxMsgSize)
}

// writeMessage writes one message with its length before it (RFC 1035, section
// 4.2.2), in one piece.
func writeMessage(w io.Writer, msg []byte) error {
	framed := make([]byte, 2, 2+len(msg))
	binary.BigEndian.PutUint16(framed, uint16(len(msg)))
	_, err := w.Write(append(framed, msg...))
	return err
}

var errTooLong = errors.New("the message is too long")

// readMessage reads one message of at most limit bytes with its length before
// it.
func readMessage(r io.Reader, limit int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > limit {
		return nil, errTooLong
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}
