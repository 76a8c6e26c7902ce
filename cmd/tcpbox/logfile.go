package main

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of rotation.
const (
	leastLogSize  = 4 << 10 // bytes
	mostLogFiles  = 1000
	usualLogFiles = 5 // with a size and no number
)

// logFile is a file of the log that gives way to a new one when it has grown too
// large: FILE becomes FILE.1, that FILE.2, and so on, as logrotate(8) and docker
// name them, and the oldest is removed. A line is never cut. It is used by one
// goroutine, but for Close.
//
// When the new file cannot be made, as on a full disk, the old one goes on growing and
// it is tried again with the next write.
type logFile struct {
	path  string
	most  int64 // bytes; zero: any number
	files int   // how many there may be, the one that is written included

	mu     sync.Mutex
	file   *os.File
	size   int64
	within bool // a line: what was written last has no end yet
}

// openLogFile creates the file, or empties it, and removes what is left of an earlier
// rotation with the same number of files.
func openLogFile(path string, most int64, files int) (*logFile, error) {
	// A FIFO that nobody reads would keep us waiting.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o666)
	if err != nil {
		return nil, err
	}
	l := &logFile{path: path, most: most, files: files, file: f}
	if st, err := f.Stat(); most > 0 && (err != nil || !st.Mode().IsRegular()) {
		f.Close() //nolint:gosec // nothing was written
		return nil, errNotRotated
	}
	for i := 1; most > 0 && i < files; i++ {
		if err := os.Remove(l.older(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.Close() //nolint:gosec // nothing was written
			return nil, err
		}
	}
	return l, nil
}

var errNotRotated = errors.New("only a regular file can be rotated")

func (l *logFile) older(n int) string { return l.path + "." + strconv.Itoa(n) }

// Write implements io.Writer. p ends with a line; a write that failed is gone on
// with.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := 0
	for done < len(p) {
		chunk := p[done:]
		if l.most > 0 {
			if !l.within && l.size > 0 && l.size+int64(lineLength(chunk)) > l.most {
				l.rotateLocked()
			}
			chunk = chunk[:l.fitting(chunk)]
		}
		n, err := l.file.Write(chunk)
		if n > 0 {
			done += n
			l.size += int64(n)
			l.within = chunk[n-1] != '\n'
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// lineLength is the length of the first line of p, its end included.
func lineLength(p []byte) int {
	for i, c := range p {
		if c == '\n' {
			return i + 1
		}
	}
	return len(p)
}

// fitting is how much of p goes into the file at hand: as many lines as have room, and
// at least one.
func (l *logFile) fitting(p []byte) int {
	n := lineLength(p)
	for n < len(p) {
		next := lineLength(p[n:])
		if l.size+int64(n+next) > l.most {
			break
		}
		n += next
	}
	return n
}

// rotateLocked makes the file FILE.1 and begins a new one.
func (l *logFile) rotateLocked() {
	for i := l.files - 1; i > 1; i-- {
		_ = os.Rename(l.older(i-1), l.older(i)) // one that is not there
	}
	if l.files > 1 {
		if err := os.Rename(l.path, l.older(1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return
	}
	l.file.Close() //nolint:gosec // what was written is written
	l.file, l.size = f, 0
}

// SetWriteDeadline makes a write give up, where the file is one that can wait.
func (l *logFile) SetWriteDeadline(t time.Time) error {
	if l.most > 0 {
		return os.ErrNoDeadline
	}
	return l.file.SetWriteDeadline(t)
}

// Close closes the file, unless a write is stuck in it.
func (l *logFile) Close() error {
	if !l.mu.TryLock() {
		return nil
	}
	defer l.mu.Unlock()
	return l.file.Close()
}

// parseSize reads a number of bytes, as docker writes it: 10m, 512k, 1g.
func parseSize(text string) (int64, error) {
	const hint = "a size is written as 10m, 512k or 1g; the smallest is 4k"
	units := map[byte]int64{'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30}
	digits, unit := text, int64(1)
	if text != "" {
		last := text[len(text)-1] | 0x20 // in small letters
		if u, ok := units[last]; ok {
			digits, unit = text[:len(text)-1], u
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > (1<<50)/unit || n*unit < leastLogSize {
		return 0, usagef(hint, "not a size")
	}
	return n * unit, nil
}

// check finds what of the flags does not go together.
func (f *logFlags) check() error {
	var errs []error
	if f.to == "" && (f.size > 0 || f.files > 0 || !f.filter.IsZero()) {
		errs = append(errs, usagef("add --log FILE", "--log-size, --log-files and --log-filter are about the file of --log"))
	}
	if f.files > 0 && f.size == 0 {
		errs = append(errs, usagef("add --log-size 10m", "--log-files %d: without --log-size there is one file", f.files))
	}
	if f.size > 0 && f.to != "" && (f.to == "-" || len(f.to) > 3 && f.to[:3] == "fd:") {
		errs = append(errs, usagef("give it the name of a file", "--log %s: only a file can be rotated by --log-size", f.to))
	}
	return errors.Join(errs...)
}
