package document

import (
	"fmt"
	"strconv"

	"tcpbox/policy/knob"
)

// Limits bound what a guest can make grow. Zero is not said.
type Limits struct {
	Connections int // TCP connections of the guest at once, but to peers
	UDPFlows    int // flows of UDP and ping at once
	Buffers     int // bytes of the buffers of those connections together
	LogRate     int // records of the log each second
}

// A LimitKey is a key of limits.
type LimitKey struct {
	Name    string
	Most    int
	Size    bool   // bytes, written as 64M; else a whole number
	Default string // in words
	Does    string
	field   func(*Limits) *int
}

// LimitKeys are the keys of limits. They are for reading only.
var LimitKeys = []LimitKey{
	{
		"connections", 1 << 20, false, "65536", "TCP connections of the guest at once, those to peers not among them; a SYN beyond is dropped and counted",
		func(l *Limits) *int { return &l.Connections },
	},
	{
		"udp-flows", 1 << 16, false, "4096", "flows of UDP and ping at once; one more ends the one that was used least recently, and is counted",
		func(l *Limits) *int { return &l.UDPFlows },
	},
	{
		"buffers", 1 << 40, true, "unlimited", "bytes that the buffers of those connections on the stack may come to together, each counted with its receive-buffer and the largest size of its send-buffer, 5M by default; a SYN beyond is dropped and counted",
		func(l *Limits) *int { return &l.Buffers },
	},
	{
		"log-rate", 1 << 20, false, "unlimited", "records of the log each second; what is beyond is left out, counted and marked in it",
		func(l *Limits) *int { return &l.LogRate },
	},
}

// parse reads a value of the limit.
func (k LimitKey) parse(text string) (n int, ok bool) {
	n, err := strconv.Atoi(text)
	if k.Size {
		n, err = knob.ParseSize(text)
	}
	return n, err == nil && n >= 1 && n <= k.Most
}

// text is what parse reads.
func (k LimitKey) text(n int) string {
	if k.Size {
		return knob.FormatSize(n)
	}
	return strconv.Itoa(n)
}

func (k LimitKey) wrong(text string) string {
	return fmt.Sprintf("%q is not a limit of %s", text, k.Name)
}

func (k LimitKey) hint() string {
	if k.Size {
		return fmt.Sprintf("%s is a number of bytes, such as 64M, up to %s", k.Name, k.text(k.Most))
	}
	return fmt.Sprintf("%s is a whole number from 1 to %d", k.Name, k.Most)
}

// A Limit is one limit, and whether somebody has set it.
type Limit struct {
	Name  string
	Value string
	Set   bool
}

// String returns "connections 1000".
func (l Limit) String() string { return l.Name + " " + l.Value }

// Each returns every limit, with its default if it is not said.
func (l Limits) Each() []Limit {
	var all []Limit
	for _, k := range LimitKeys {
		if n := *k.field(&l); n != 0 {
			all = append(all, Limit{k.Name, k.text(n), true})
		} else {
			all = append(all, Limit{k.Name, k.Default, false})
		}
	}
	return all
}
