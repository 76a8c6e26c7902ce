package main

import (
	"io"
	"os"
	"time"
)

// followEvery is how often a file that is followed is looked at.
const followEvery = 100 * time.Millisecond

// flushBefore flushes what was printed before each read, which may wait.
type flushBefore struct {
	in    io.Reader
	flush func() error
}

func (f flushBefore) Read(b []byte) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.in.Read(b)
}

// follower reads a file as tail -f does: at its end it waits for more. It ends
// when the file has become shorter than what was read of it, as one has that is
// written anew; then again begins at the start.
type follower struct {
	file *os.File
	at   int64
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
	return &follower{file: f, at: at}
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
		time.Sleep(followEvery)
	}
}
