package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A FIFO is waited for, but not for ever; what is written to it is read to its end.
func TestReadInTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if data, err := readInTime(open(), time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without a writer: %q, %v", data, err)
	}

	silent, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := readInTime(open(), time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a writer that is silent: %q, %v", data, err)
	}
	if err := silent.Close(); err != nil {
		t.Fatal(err)
	}

	f := open()
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(path, []byte("version: 1\n"), 0) }()
	if data, err := readInTime(f, time.Minute); err != nil || string(data) != "version: 1\n" {
		t.Errorf("with a writer: %q, %v", data, err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}
