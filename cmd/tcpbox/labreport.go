package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/cmd/internal/lab"
)

// A reportFile is where the page of a lab goes: made before the lab runs, so that
// it is told at once where it cannot be, and put in its place when it is whole. A
// nil reportFile is none.
type reportFile struct {
	path string
	file *os.File
}

// openReport begins the page of a lab. One of several is NAME.html in a directory.
func (a labArgs) openReport(l *lab.Lab) (*reportFile, error) {
	if a.report == "" {
		return nil, nil //nolint:nilnil // none was asked for
	}
	path := a.report
	var err error
	if a.all {
		path = filepath.Join(path, l.Name+".html")
		err = os.MkdirAll(a.report, 0o777)
	} else if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil, &reportError{usagef("for example: --report report.html", "--report %q: it is a directory", path)}
	}
	var r *reportFile
	if err == nil {
		r, err = newReportFile(path)
	}
	if err != nil {
		return nil, &reportError{hinted(fmt.Sprintf("--report %q: %v", path, underlying(err)), "name a file that can be written")}
	}
	return r, nil
}

// newReportFile makes the file that takes the place of the one at path, beside it
// and under a name that nobody can know. What is no file, such as a pipe or a
// terminal, is written to and not replaced; of a symbolic link, what it leads to is
// replaced.
func newReportFile(path string) (*reportFile, error) {
	switch info, err := os.Stat(path); {
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0) // a FIFO that nobody reads is an error
		return &reportFile{path, f}, err
	case err == nil:
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return nil, err
		}
		if err := unix.Access(path, unix.W_OK); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tcpbox-*.html")
	if err != nil {
		return nil, err
	}
	mask := unix.Umask(0)
	unix.Umask(mask)
	if err := f.Chmod(0o666 &^ os.FileMode(mask)); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return &reportFile{path, f}, nil
}

// reportError is a fault of the page, not of the lab.
type reportError struct{ error }

func (e *reportError) Unwrap() error { return e.error }

func (r *reportFile) write(report *lab.Report) error {
	if r == nil {
		return nil
	}
	w := bufio.NewWriter(r.file)
	err := errors.Join(report.WriteHTML(w, lab.Page{Version: version, When: time.Now()}), w.Flush(), r.file.Close())
	if err == nil && r.isPart() {
		err = os.Rename(r.file.Name(), r.path)
	}
	if err != nil {
		_ = r.remove()
		return &reportError{hinted(fmt.Sprintf("--report %q: %v", r.path, underlying(err)), "the lab has run: without --report its result is printed")}
	}
	return nil
}

// discard removes what was begun.
func (r *reportFile) discard() error {
	if r == nil {
		return nil
	}
	return errors.Join(r.file.Close(), r.remove())
}

// isPart says whether the file is to take the place of another, once it is whole.
func (r *reportFile) isPart() bool { return r.file.Name() != r.path }

func (r *reportFile) remove() error {
	if !r.isPart() {
		return nil
	}
	return os.Remove(r.file.Name())
}

func isReportError(err error) bool {
	_, is := errors.AsType[*reportError](err)
	return is
}
