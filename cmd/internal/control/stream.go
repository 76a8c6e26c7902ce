package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLine bounds a line of a stream, in bytes; maxFiles the descriptors
	// that one direction passes.
	maxLine  = 16 << 10
	maxFiles = 3

	// sendTimeout bounds the sending of a line, which fits into the socket
	// unless the other end has long ceased to read.
	sendTimeout = 5 * time.Second
)

// stream is a connection of lines of JSON with descriptors beside them. Lines
// may be sent by many goroutines, and are received by one.
type stream struct {
	conn *net.UnixConn
	rest []byte // received, and not returned yet
	fds  []int  // received, and not taken yet

	mu sync.Mutex // sends
}

// send sends a line and copies of the descriptors.
func (s *stream) send(v any, fds ...int) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if len(line) > maxLine {
		return fmt.Errorf("a line of %d bytes is too long", len(line))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	n, _, err := s.conn.WriteMsgUnix(line, oob, nil)
	if err == nil && n < len(line) {
		_, err = s.conn.Write(line[n:])
	}
	return err
}

// receive returns the next line. Descriptors that came with it are kept for
// take. io.EOF: the other end has ended.
func (s *stream) receive(into any) error {
	for {
		if i := bytes.IndexByte(s.rest, '\n'); i >= 0 {
			line := s.rest[:i]
			s.rest = s.rest[i+1:]
			d := json.NewDecoder(bytes.NewReader(line))
			d.DisallowUnknownFields()
			if err := d.Decode(into); err != nil {
				return err
			}
			if d.More() {
				return errors.New("more than one value on a line")
			}
			return nil
		}
		if len(s.rest) > maxLine {
			return errors.New("a line is too long")
		}
		if err := s.more(); err != nil {
			return err
		}
	}
}

// more reads from the connection.
func (s *stream) more() error {
	buf := make([]byte, 4<<10)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return err
	}
	fds, err := rights(oob[:oobn])
	s.fds = append(s.fds, fds...)
	switch {
	case err != nil:
		return err
	case flags&unix.MSG_CTRUNC != 0 || len(s.fds) > maxFiles:
		return errors.New("too many descriptors")
	case n == 0:
		return io.EOF
	}
	s.rest = append(s.rest, buf[:n]...)
	return nil
}

// take returns the descriptors that have come, which are close-on-exec, and now
// the caller's.
func (s *stream) take() []int {
	fds := s.fds
	s.fds = nil
	return fds
}

// rights are the descriptors in control messages.
func rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
