package main

import (
	"fmt"
	"os"

	"tcpbox/stack/tcpstate"
)

type stateLog struct{ f *os.File }

func checkLogTarget(string) error { return nil }
func openLog(to string, stderr *os.File) (*stateLog, error) {
	if to == "" {
		return &stateLog{}, nil
	}
	return &stateLog{stderr}, nil
}
func (l *stateLog) onRecord() func(tcpstate.Transition) {
	if l.f == nil {
		return nil
	}
	return func(t tcpstate.Transition) {
		fmt.Fprintln(l.f, t.Time.Format("15:04:05.000000"), t.Conn, t.Remote, t.Local, t.From, t.To, t.Cause, t.Age)
	}
}
func (l *stateLog) close() error { return nil }
