package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
)

// The caller and init speak over a pair of SOCK_SEQPACKET sockets, one JSON
// message in each packet, descriptors beside it:
//
//	caller                         init
//	   ───── setup (in a memfd) ────▶
//	   ◀──── ready + TUN, or fault ──
//	   ───── start ─────────────────▶
//	   ◀──── reply + pidfd, or fault
//	   ───── socket, sysctl, … ─────▶  any number, each answered
//	   ───── exec + spec, files ────▶  any number
//	   ◀──── reply + pidfd, terminal
//	   ◀──── ended ──────────────────  a command has, unasked
//	   ◀──── stopped, continued ─────  events, unasked
//	   ◀──── exited ─────────────────  the last, unless it lingers
//
// Either end takes the other's disappearance for its death.
type message struct {
	ID    uint64 `json:",omitempty"` // pairs a reply with its request; 0: an event
	Op    string `json:",omitempty"`
	Name  string `json:",omitempty"`
	Value string `json:",omitempty"`
	Ints  []int  `json:",omitempty"`
	Fault *fault `json:",omitempty"`
}

// What a message can be about. Replies have no Op.
const (
	opReady     = "ready"     // event; Name, the interface; Value, a remark; with the TUN
	opStart     = "start"     // reply: with the guest's pidfd
	opSignal    = "signal"    // Ints: the number; sent to the guest
	opForward   = "forward"   // Ints: the number, the latest stop known; unless the guest has had it already
	opResume    = "resume"    // Ints: a stop; continue the guest, if it is still in that one
	opWaker     = "waker"     // with the end of a pipe to write to: see waker
	opSocket    = "socket"    // Ints: domain, type, protocol; reply: with the socket
	opSysctl    = "sysctl"    // Name; reply: Value
	opSetSysctl = "setsysctl" // Name, Value
	opProcNet   = "procnet"   // Name; reply: with the file, open for reading
	opStopped   = "stopped"   // event; Ints: the signal, which stop of the guest it is, from 1
	opContinued = "continued" // event
	opExited    = "exited"    // event; Ints: code, signal
	opLingers   = "lingers"   // event; the guest has exited, and others have not
	opExec      = "exec"      // with an execSpec in a file, and the command's 0, 1, 2; reply: pidfd, and the terminal
	opAbandon   = "abandon"   // Ints: the ID of an exec; nobody waits for its reply
	opEnded     = "ended"     // event; Ints: the ID of the exec, code, signal
	opSignalAll = "signalall" // Ints: the number; sent to every process
)

// setup is what init must know, once, at its start.
type setup struct {
	Privileged bool // the caller is root: there is no outer user namespace
	UID, GID   int  // the caller's
	Root       bool
	User       *User
	Hostname   string
	Link       netns.Link
	Defaults   []netns.Sysctl
	Sysctls    []netns.Sysctl
	Etc        map[string][]byte
	Hide       []string
	Keep       []int // the guest's numbers of the descriptors from firstKept on
	Linger     bool
	program
}

// program is what a stage executes. It holds bytes, not strings, for JSON holds
// those to UTF-8.
type program struct {
	Args, Env [][]byte
	Dir       []byte
}

// The descriptors that init is born with, beside 0, 1 and 2.
const (
	controlFD = 3
	setupFD   = 4
	firstKept = 5
)

// maxMessage bounds one message, in bytes. maxFiles bounds its descriptors.
const (
	maxMessage = 192 << 10
	maxFiles   = 4
)

// channel is one end. Messages may be sent by many goroutines, and are
// received by one.
type channel struct {
	conn *net.UnixConn
	buf  []byte
	oob  []byte

	mu sync.Mutex // sends
}

// newChannel takes the descriptor over.
func newChannel(fd int) (*channel, error) {
	file := os.NewFile(uintptr(fd), "control")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a unix socket")
	}
	return &channel{
		conn: unixConn,
		buf:  make([]byte, maxMessage),
		oob:  make([]byte, unix.CmsgSpace(4*maxFiles)),
	}, nil
}

// send sends a message and copies of the descriptors.
func (c *channel) send(m message, fds ...int) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", len(data))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, err = c.conn.WriteMsgUnix(data, oob, nil)
	return err
}

// receive returns the next message and its descriptors, which are
// close-on-exec and the caller's to close. io.EOF: the other end is gone. Where
// this process has no room for all the descriptors, which is no fault of the
// channel's, the message says so and has those that there was room for.
func (c *channel) receive() (m message, fds []int, err error) {
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.buf, c.oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The other end closed with a message of ours unread. What it had sent
		// before comes after the error.
		n, oobn, flags, _, err = c.conn.ReadMsgUnix(c.buf, c.oob)
	}
	if err != nil {
		return m, nil, err
	}
	if n == 0 {
		return m, nil, io.EOF
	}
	fds, err = rights(c.oob[:oobn])
	if err == nil && flags&unix.MSG_TRUNC != 0 {
		err = errors.New("a message was cut short")
	}
	if err == nil {
		err = json.Unmarshal(c.buf[:n], &m)
	}
	if err != nil {
		closeAll(fds)
		return m, nil, err
	}
	if flags&unix.MSG_CTRUNC != 0 && m.Fault == nil {
		m.Fault = asFault(&Error{Op: "take a descriptor", Err: unix.EMFILE, Hint: "raise the limit with \"ulimit -n\""})
	}
	return m, fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
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
		unix.Close(fd)
	}
}

func (c *channel) close() { c.conn.Close() }
