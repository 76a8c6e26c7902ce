package bench

import (
	"bufio"
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

// A task is what a guest measures. It lasts for Length, so that a slow way takes
// no longer than a fast one, or until Count is reached; how much was done is in
// the measure.
type task struct {
	Kind    string        // of the constants below
	Length  time.Duration // 0: until Count
	Count   int           // connections; 0: until Length
	Streams int           // at once
	Server  string        // host:port
	ByPeer  bool          // the server closes first
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
	Done     int     // bytes, connections, round trips or packets
	Seconds  float64 // that it took
	P50, P99 float64 // seconds, of a round trip
	Err      string  `json:",omitempty"`
}

// ready is what server and guest print when they have started, and what tells
// the guest to begin.
const ready = "ready\n"

// play is the guest's main. It says that it is ready, waits for the word,
// measures, prints the measure, and stays until standard input ends, so that its
// sandbox can be looked at before and after.
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
	stdin := bufio.NewReader(os.Stdin)
	fmt.Print(ready)
	if _, err := stdin.ReadString('\n'); err != nil {
		return 1
	}
	begin := time.Now()
	closers, err := t.run(&m)
	m.Seconds = time.Since(begin).Seconds()
	if err != nil {
		m.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(m)
	io.Copy(io.Discard, stdin)
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
		return nil, t.each(m, t.upload)
	case kindDown:
		return nil, t.each(m, t.download)
	case kindShort:
		return nil, t.each(m, func(over func() bool) (done int, err error) {
			for done < t.Count/t.Streams && !over() {
				if err := t.short(); err != nil {
					return done, err
				}
				done++
			}
			return done, nil
		})
	case kindPing:
		return nil, t.ping(m)
	case kindUDP:
		return nil, t.each(m, t.packets)
	case kindHold:
		return t.hold(m)
	}
	return nil, fmt.Errorf("no kind %q", t.Kind)
}

// each runs f in as many streams as the task has, and adds up what they did.
// over reports whether the task has lasted long enough.
func (t task) each(m *measure, f func(over func() bool) (done int, err error)) error {
	end := time.Now().Add(t.Length)
	over := func() bool { return !time.Now().Before(end) }
	done, errs := make([]int, t.Streams), make([]error, t.Streams)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { done[i], errs[i] = f(over) })
	}
	all.Wait()
	for _, n := range done {
		m.Done += n
	}
	return errors.Join(errs...)
}

// hold opens Count connections, and leaves them open.
func (t task) hold(m *measure) ([]io.Closer, error) {
	var (
		mu   sync.Mutex
		open []io.Closer
	)
	err := t.each(m, func(func() bool) (done int, err error) {
		for range t.Count / t.Streams {
			c, err := t.dial(askEcho)
			if err != nil {
				return done, err
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			if err := trip(c, make([]byte, 1)); err != nil {
				return done, err
			}
			done++
		}
		return done, nil
	})
	return open, err
}

// trip sends b and waits for its return.
func trip(c net.Conn, b []byte) error {
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
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

func (t task) upload(over func() bool) (done int, err error) {
	c, err := t.dial(askUpload)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for buf := make([]byte, 256<<10); !over(); {
		n, err := c.Write(buf)
		done += n
		if err != nil {
			return done, err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return done, err
	}
	_, err = io.ReadFull(c, make([]byte, 1)) // the server has read it all
	return done, err
}

// download reads until the task is over; the server learns that by a reset.
func (t task) download(over func() bool) (done int, err error) {
	c, err := t.dial(askDownload)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for buf := make([]byte, 256<<10); !over(); {
		n, err := c.Read(buf)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
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
		return trip(c, make([]byte, 1))
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
	var trips []float64
	b := make([]byte, 1)
	err = t.each(m, func(over func() bool) (int, error) {
		for !over() {
			begin := time.Now()
			if err := trip(c, b); err != nil {
				return len(trips), err
			}
			trips = append(trips, time.Since(begin).Seconds())
		}
		return len(trips), nil
	})
	if len(trips) > 0 {
		slices.Sort(trips)
		m.P50, m.P99 = trips[len(trips)/2], trips[len(trips)*99/100]
	}
	return err
}

// window is how many packets are under way.
const window = 32

// packets sends packets of 64 bytes, a new one for each that returns, and
// counts those. After a second without any it sends a windowful again.
func (t task) packets(over func() bool) (got int, err error) {
	c, err := net.Dial("udp", t.Server)
	if err != nil {
		return 0, err
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
		return 0, err
	}
	for stalls := 0; !over() || got == 0; {
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err := c.Read(in)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if stalls++; stalls > 5 {
				return got, fmt.Errorf("no packet returns after %d", got)
			}
			err = fill()
		} else if err == nil {
			got++
			_, err = c.Write(out)
		}
		if err != nil {
			return got, err
		}
	}
	return got, nil
}
