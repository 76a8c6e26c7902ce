package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// logCloseTime is how long the end of a run waits for a log that nobody reads.
const logCloseTime = 2 * time.Second

// A stateLog is where --log writes.
type stateLog struct {
	write  func([]statelog.Item) // nil: nowhere
	writer *statelog.Writer
	file   io.Closer // nil if it is not ours
	say    *speaker
	text   bool // for people
}

// logFlags are what the command line says of the log.
type logFlags struct {
	to     string
	size   int64 // of a file, in bytes, before it is rotated; zero: never
	files  int   // that there may be; zero means usualLogFiles
	filter statelog.Filter
}

// checkLogTarget finds wrong targets before anything is opened.
func checkLogTarget(to string) error {
	if to == "" {
		return usagef(`"-" is standard error`, "it is a file, - or fd:N")
	}
	if n, ok := strings.CutPrefix(to, "fd:"); ok {
		fd, err := strconv.Atoi(n)
		if err != nil || fd < 1 {
			return usagef("as in --log fd:3 3>states.jsonl", "fd:N needs the number of an open descriptor")
		}
		// Descriptors of our own are closed on exec, so they are no one's target.
		mine, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || mine&unix.FD_CLOEXEC != 0 {
			return usagef("as in --log fd:"+n+" "+n+">states.jsonl", "descriptor %d is not open", fd)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil {
			return usagef("as in --log fd:"+n+" "+n+">states.jsonl", "descriptor %d is not open", fd)
		}
		if flags&unix.O_ACCMODE == unix.O_RDONLY {
			return usagef("as in --log fd:"+n+" "+n+">states.jsonl", "descriptor %d is not open for writing", fd)
		}
	}
	return nil
}

// checkLogIsOurs refuses a descriptor that the guest is to have as well: it could
// write what looks like the log.
func checkLogIsOurs(to string, kept []int) error {
	for _, fd := range kept {
		if to == "fd:"+strconv.Itoa(fd) {
			return usagef("give the log a descriptor of its own", "--log %s: --keep-fd %d gives that descriptor to the command", to, fd)
		}
	}
	return nil
}

// openLog opens the target of --log; without one it returns a log that writes
// nowhere.
func openLog(flags logFlags, sandbox string, stderr *os.File, say *speaker) (*stateLog, error) {
	l := &stateLog{say: say}
	to := flags.to
	if to == "" {
		return l, nil
	}
	opt := statelog.WriterOptions{Sandbox: sandbox, OnFault: l.fault, OnRecover: l.recovered}
	out, sink := stderr, io.Writer(nil)
	switch n, isFD := strings.CutPrefix(to, "fd:"); {
	case to == "-":
	case isFD:
		fd, _ := strconv.Atoi(n) // checkLogTarget has read it
		unix.CloseOnExec(fd)
		out = os.NewFile(uintptr(fd), to)
	default:
		f, err := openLogFile(to, flags.size, cmp.Or(flags.files, usualLogFiles))
		if err != nil {
			return nil, logOpenError(to, err)
		}
		out, sink, l.file = f.file, f, f
	}
	if line, ok := forTerminal(out); ok {
		l.text = true
		opt.Encode = withoutResolver(withFacts(line.Append))
		if _, err := out.Write(line.Header(nil)); err != nil {
			return nil, fmt.Errorf("write the log: %w", err)
		}
	}
	if sink == nil {
		sink = out
	}
	l.writer = statelog.NewWriter(sink, opt)
	l.write = chosen(flags.filter, l.writer.Write)
	return l, nil
}

// withoutResolver leaves out, of the log for people, that the sandbox's own
// resolver listens: it is in every sandbox, and says nothing of the command.
func withoutResolver(encode func([]byte, statelog.Record) []byte) func([]byte, statelog.Record) []byte {
	return func(b []byte, r statelog.Record) []byte {
		listening := r.From == tcpstate.Listen || r.To == tcpstate.Listen
		if listening && r.Local.Port() == tcpbox.ResolverPort && r.IsTransition() {
			return b
		}
		return encode(b, r)
	}
}

// segments is what takes the headers of segments; nil if there is no log, or it
// is one for people, who look at a ladder.
func (l *stateLog) segments() func([]statelog.Segment) {
	if l.writer == nil || l.text {
		return nil
	}
	return l.writer.WriteSegments
}

func logOpenError(to string, err error) error {
	if errors.Is(err, errNotRotated) {
		return usagef("leave --log-size out", "--log %q: %v", to, err)
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR:
		return usagef("the directory must exist", "--log %q: %v", to, errno)
	case syscall.EISDIR:
		return usagef("give the name of a file in it", "--log %q: it is a directory", to)
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return usagef("choose a file that you may write, or --log -", "--log %q: %v", to, errno)
	}
	if errno == syscall.ENXIO {
		return hinted(fmt.Sprintf("--log %q: nobody reads it", to), "start the reader of the FIFO or the device first")
	}
	return fmt.Errorf("open the log %q: %w", to, err)
}

// fault tells that the log cannot be written. The sandbox carries on.
func (l *stateLog) fault(err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	l.say.lost(fmt.Sprintf("the log cannot be written: %v; the command goes on, and the log will say how many records it lacks", err))
}

func (l *stateLog) recovered() { l.say.lost("the log can be written again") }

// close writes what is left. What cannot be written is told, and does not
// change the guest's exit status.
func (l *stateLog) close() {
	if l.writer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), logCloseTime)
	defer cancel()
	if err := l.writer.Close(ctx); err != nil || l.writer.Lost() > 0 {
		l.say.lost(fmt.Sprintf("the log lacks its last %d records", l.writer.Lost()))
	}
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			l.fault(err)
		}
	}
}
