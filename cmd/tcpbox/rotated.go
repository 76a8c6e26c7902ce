package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"

	"tcpbox/stack/statelog"
	"tcpbox/stack/tcpstate"
)

// lookForFirst is how much of a file is looked at for its first record, in bytes.
const lookForFirst = 1 << 20

// older is an earlier file of a recording that was rotated.
type older struct {
	name string
	file *os.File
}

// openOlder opens what was written before the newest file of a rotated recording,
// the oldest first: FILE.1, FILE.2 and so on, as long as they are of the same
// sandbox. What is left of an earlier run is not, nor is anything if FILE has the
// beginning of its own. One that is there and cannot be read is told on errs.
func openOlder(name string, newest *os.File, errs io.Writer) []older {
	sandbox, beginning := firstLine(newest)
	var found []older
	seen := []*os.File{newest}
	for i := 1; sandbox != "" && !beginning && i < mostLogFiles; i++ {
		one := older{name: name + "." + strconv.Itoa(i)}
		var err error
		if one.file, err = os.Open(one.name); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(errs, "tcpbox: warning: %s, which was written before, cannot be read: %v\n", printable(one.name), underlying(err))
			}
			break
		}
		if isOneOf(one.file, seen) { // it was rotated meanwhile
			one.file.Close() //nolint:gosec // nothing was written
			continue
		}
		var of string
		if of, beginning = firstLine(one.file); of != sandbox {
			one.file.Close() //nolint:gosec // nothing was written
			break
		}
		found, seen = append(found, one), append(seen, one.file)
	}
	slices.Reverse(found)
	return found
}

func isOneOf(f *os.File, others []*os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	for _, o := range others {
		if b, err := o.Stat(); err == nil && os.SameFile(a, b) {
			return true
		}
	}
	return false
}

// firstLine says of which sandbox the first line of a file is that can be read, and
// whether it is the first of its run: connection 1 begins. The file is read from
// where it was afterwards. What is no regular file, or no recording, is of none.
func firstLine(f *os.File) (sandbox string, beginning bool) {
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", false
	}
	reader := statelog.NewReader(io.NewSectionReader(f, 0, lookForFirst))
	reader.OnSegment = func(s statelog.Segment) error {
		sandbox = s.Sandbox
		return io.EOF
	}
	for {
		r, err := reader.Next()
		var line *statelog.LineError
		switch {
		case err == nil:
			return r.Sandbox, r.Conn == 1 && r.Facts == nil && r.From == tcpstate.Closed
		case !errors.As(err, &line):
			return sandbox, false
		}
	}
}

// readOlder gives the records of the earlier files to take, and says that there
// are some.
func (r *recording) readOlder(take func(*statelog.Record) error) error {
	if len(r.older) == 0 {
		return nil
	}
	first, newest := r.older[0].name, r.name
	text := fmt.Sprintf("%s is", printable(first))
	if n := len(r.older); n > 1 {
		text = fmt.Sprintf("%s to %s are", printable(first), printable(r.older[n-1].name))
	}
	fmt.Fprintf(r.errs, "tcpbox: %s read before %s\n", text, printable(newest))
	defer func() { r.name = newest }()
	for _, o := range r.older {
		r.name = o.name
		err := r.readFrom(o.file, take)
		o.file.Close() //nolint:gosec // nothing was written
		if err != nil {
			return err
		}
	}
	r.older = nil
	return nil
}

// newerThan opens what came after the file f, which was called name and was rotated:
// FILE.1 and so on up to what f is called now, the oldest first, and then FILE. While
// f is the newest there is nothing, nor if FILE has just been taken away. found is
// false if f is none of them: it is being renamed, or somebody has put another FILE in
// its place; then there is FILE alone.
func newerThan(f *os.File, name string) (files []*os.File, found bool) {
	newest, err := os.Open(name)
	if err != nil {
		return nil, true
	}
	if isOneOf(newest, []*os.File{f}) {
		newest.Close() //nolint:gosec // nothing was written
		return nil, true
	}
	newer := []*os.File{newest}
	for i := 1; i < mostLogFiles; i++ {
		one, err := os.Open(name + "." + strconv.Itoa(i))
		if err != nil {
			break
		}
		if isOneOf(one, []*os.File{f}) {
			one.Close() //nolint:gosec // nothing was written
			slices.Reverse(newer)
			return newer, true
		}
		if isOneOf(one, newer) { // it was rotated meanwhile
			one.Close() //nolint:gosec // nothing was written
			continue
		}
		newer = append(newer, one)
	}
	if st, err := f.Stat(); err == nil && st.Sys().(*syscall.Stat_t).Nlink == 0 { //nolint:forcetypeassert // of this system
		slices.Reverse(newer) // f was the oldest, and is gone: so may be some after it
		return newer, true
	}
	closeAll(newer[1:])
	return newer[:1], false
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() //nolint:gosec // nothing was written
	}
}
