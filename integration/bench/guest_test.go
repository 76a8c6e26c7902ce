package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A task is what a guest measures.
type task struct {
	Kind    string // of the constants below
	Count   int    // bytes, connections, round trips or packets
	Streams int    // at once
	Server  string // host:port
	ByPeer  bool   // the server closes first
}

const (
	kindUp    = "up"
	kindDown  = "down"
	kindShort = "short" // connections, one after the other in each stream
	kindPing  = "ping"  // one byte there and back
	kindUDP   = "udp"   // packets there and back, 32 under way
	kindHold  = "hold"  // connections that stay open
)

// A measure is what a guest found.
type measure struct {
	Seconds  float64
	P50, P99 float64 // seconds, of a round trip
	Err      string  `json:",omitempty"`
}

// play is the guest's main. It measures, prints the measure, and stays until
// standard input ends, so that its sandbox can be looked at.
func play(text string) int {
	var (
		t task
		m measure
	)
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	raiseFiles()
	begin := time.Now()
	closers, err := t.run(&m)
	m.Seconds = time.Since(begin).Seconds()
	if err != nil {
		m.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(m)
	io.Copy(io.Discard, os.Stdin)
	for _, c := range closers {
		c.Close()
	}
	return 0
}

// raiseFiles lets this process open as many files as it may.
func raiseFiles() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l) // what is too few is seen then
	}
}

func (t task) run(m *measure) (open []io.Closer, err error) {
	switch t.Kind {
	case kindUp:
		return nil, t.each(func() error { return t.upload(t.Count / t.Streams) })
	case kindDown:
		return nil, t.each(func() error { return t.download(t.Count / t.Streams) })
	case kindShort:
		return nil, t.each(func() error {
			for range t.Count / t.Streams {
				if err := t.short(); err != nil {
					return err
				}
			}
			return nil
		})
	case kindPing:
		return nil, t.ping(m)
	case kindUDP:
		return nil, t.packets()
	case kindHold:
		for range t.Count {
			c, err := t.dial(askEcho)
			if err != nil {
				return open, err
			}
			open = append(open, c)
			if _, err := c.Write([]byte{1}); err != nil {
				return open, err
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				return open, err
			}
		}
		return open, nil
	}
	return nil, fmt.Errorf("no kind %q", t.Kind)
}

// each runs f in as many streams as the task has.
func (t task) each(f func() error) error {
	errs := make([]error, t.Streams)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = f() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// dial connects and says what is asked for.
func (t task) dial(ask ...byte) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", t.Server)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(ask); err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (t task) upload(n int) error {
	c, err := t.dial(askUpload)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := send(c, int64(n)); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1)) // the server has read it all
	return err
}

func (t task) download(n int) error {
	c, err := t.dial(binary.BigEndian.AppendUint64([]byte{askDownload}, uint64(n))...)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := io.Copy(io.Discard, onlyReader{c})
	if err == nil && got != int64(n) {
		err = fmt.Errorf("%d bytes of %d", got, n)
	}
	return err
}

func (t task) short() error {
	ask := byte(askEcho)
	if t.ByPeer {
		ask = askClose
	}
	c, err := t.dial(ask)
	if err != nil {
		return err
	}
	defer c.Close()
	if !t.ByPeer {
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	if _, err = c.Read(make([]byte, 1)); err == io.EOF {
		return nil
	}
	return fmt.Errorf("the server did not close: %w", err)
}

func (t task) ping(m *measure) error {
	c, err := t.dial(askEcho)
	if err != nil {
		return err
	}
	defer c.Close()
	trips := make([]float64, t.Count)
	b := make([]byte, 1)
	for i := range trips {
		begin := time.Now()
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		trips[i] = time.Since(begin).Seconds()
	}
	slices.Sort(trips)
	m.P50, m.P99 = trips[len(trips)/2], trips[len(trips)*99/100]
	return nil
}

// window is how many packets are under way.
const window = 32

// packets sends Count packets of 64 bytes, a new one for each that returns.
// After a second without any it sends a windowful again.
func (t task) packets() error {
	c, err := net.Dial("udp", t.Server)
	if err != nil {
		return err
	}
	defer c.Close()
	out, in := make([]byte, 64), make([]byte, 64)
	fill := func() error {
		for range window {
			if _, err := c.Write(out); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(); err != nil {
		return err
	}
	stalls := 0
	for got := 0; got < t.Count; {
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(in)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if stalls++; stalls > 10 {
				return fmt.Errorf("%d packets of %d returned", got, t.Count)
			}
			err = fill()
		} else if err == nil {
			got++
			_, err = c.Write(out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
