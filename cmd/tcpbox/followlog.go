package main

import (
	"io"
	"os"
	"time"
)

// followEvery is how often a file that is followed is looked at.
const followEvery = 100 * time.Millisecond

// A printError is of what is printed, and not of what is read.
type printError struct{ error }

func (e *printError) Unwrap() error { return e.error }

// flushBefore flushes what was printed before each read, which may wait.
type flushBefore struct {
	in    io.Reader
	flush func() error
}

func (f flushBefore) Read(b []byte) (int, error) {
	if err := f.flush(); err != nil {
		return 0, &printError{err}
	}
	return f.in.Read(b)
}

// follower reads a file as tail -F does: at its end it waits for more, and when it was
// rotated it goes on with the files that have come after it, up to the newest. It ends
// when the file has become shorter than what was read of it, as one has that is
// written anew; then again begins at the start.
type follower struct {
	name string
	file *os.File
	at   int64
	then []*os.File // that come after file, in their order
	left bool       // file has got another name: nothing is added to it
	lost bool       // file was not found under any name, the last time
}

// newFollower returns nil for what is no regular file: that is read to its end.
func newFollower(f *os.File) *follower {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	return &follower{name: f.Name(), file: f, at: at}
}

// next goes on with the file that comes after, and reports whether there is one.
func (f *follower) next() bool {
	if len(f.then) == 0 {
		files, found := newerThan(f.file, f.name)
		if !found && !f.lost { // it may be on its way to another name
			f.lost = true
			closeAll(files)
			return false
		}
		f.then, f.lost = files, false
	}
	if len(f.then) == 0 {
		return false
	}
	if !f.left { // it was renamed only now: what was added before that is read first
		f.left = true
		return true
	}
	f.file.Close() //nolint:gosec // nothing was written
	f.file, f.then, f.at, f.left = f.then[0], f.then[1:], 0, len(f.then) > 1
	return true
}

func (f *follower) Read(b []byte) (int, error) {
	for {
		st, err := f.file.Stat()
		if err != nil {
			return 0, err
		}
		if st.Size() < f.at {
			return 0, io.EOF
		}
		n, err := f.file.ReadAt(b, f.at)
		if f.at += int64(n); n > 0 {
			return n, nil
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if !f.next() {
			time.Sleep(followEvery)
		}
	}
}
