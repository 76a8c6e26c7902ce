package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// program is what a program of the guest has open. Its steps come one after the
// other; what a listener does of itself it does beside them.
type program struct {
	listeners map[string]int   // descriptors, by Listen.At
	kept      map[string][]int // descriptors of connections, by the step that keeps them
	leaks     leaks
}

// leaks are connections that nobody closes.
type leaks struct {
	mu  sync.Mutex
	fds []int
}

func newProgram() *program {
	return &program{listeners: make(map[string]int), kept: make(map[string][]int)}
}

// do does a step that the program can do.
func (p *program) do(s *Step) (Figures, error) {
	switch {
	case s.Fetch != nil:
		return s.Fetch.do()
	case s.Connect != nil:
		to, err := resolve(s.Connect.To)
		if err != nil {
			return nil, err
		}
		return s.Connect.do(to)
	case s.Listen != nil:
		return Figures{}, p.listen(s.Listen)
	case s.Accept != nil:
		return p.accept(s.Name, s.Accept)
	case s.Open != nil:
		to, err := resolve(s.Open.To)
		if err != nil {
			return nil, err
		}
		return p.open(s.Name, s.Open, to)
	case s.Act != nil:
		return p.act(s.Act)
	}
	return nil, fmt.Errorf("a program cannot do %q", s.kinds())
}

// portOf reads ":80".
func portOf(at string) (int, error) {
	text, ok := strings.CutPrefix(at, ":")
	port, err := strconv.ParseUint(text, 10, 16)
	if !ok || err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port, such as \":80\"", at)
	}
	return int(port), nil
}

func (p *program) listen(l *Listen) error {
	port, err := portOf(l.At)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return errors.Join(fmt.Errorf("setsockopt SO_REUSEADDR: %w", err), unix.Close(fd))
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return errors.Join(fmt.Errorf("bind %s: %w", l.At, err), unix.Close(fd))
	}
	backlog := l.Backlog
	if backlog == 0 {
		backlog = 1 << 30 // the kernel takes net.core.somaxconn, if that is less
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return errors.Join(fmt.Errorf("listen %s: %w", l.At, err), unix.Close(fd))
	}
	p.listeners[l.At] = fd
	if l.Then != "" {
		go p.serve(fd, l.Then) // until the program ends
	}
	return nil
}

// serve accepts for ever.
func (p *program) serve(fd int, then Then) {
	for {
		conn, err := acceptOne(fd, -1)
		if err != nil {
			return
		}
		go p.treat(conn, then)
	}
}

// acceptOne takes a connection out of the queue, waiting so many milliseconds for
// it; negative waits for ever.
func acceptOne(fd, wait int) (int, error) {
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case errors.Is(err, unix.EAGAIN):
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, wait)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return -1, fmt.Errorf("poll: %w", err)
			}
			if n == 0 && err == nil {
				return -1, unix.EAGAIN
			}
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		case err != nil:
			return -1, fmt.Errorf("accept: %w", err)
		default:
			return conn, nil
		}
	}
}

// treat does to a connection what the server does.
func (p *program) treat(fd int, then Then) {
	switch then {
	case ThenHold:
		p.leaks.add(fd)
		return
	case ThenLeak:
		_ = awaitEnd(fd)
		p.leaks.add(fd)
		return
	case ThenReadEnd:
		_ = awaitEnd(fd)
	}
	_ = unix.Close(fd)
}

// awaitEnd is readToEnd without a bound.
func awaitEnd(fd int) error {
	for {
		err := readToEnd(fd)
		if !errors.Is(err, unix.ETIMEDOUT) {
			return err
		}
	}
}

func (l *leaks) add(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fds = append(l.fds, fd)
}

func (p *program) accept(name string, a *Accept) (Figures, error) {
	fd, ok := p.listeners[a.At]
	if !ok {
		return nil, fmt.Errorf("the program does not listen on %q", a.At)
	}
	f := Figures{}
	for range a.Times {
		conn, err := acceptOne(fd, int(patience.Milliseconds()))
		if errors.Is(err, unix.EAGAIN) {
			f["EAGAIN"]++
			break
		}
		if err != nil {
			return f, err
		}
		p.kept[name] = append(p.kept[name], conn)
		f["ok"]++
	}
	return f, nil
}

func (p *program) open(name string, o *Open, to netip.AddrPort) (Figures, error) {
	f := Figures{}
	within := patience
	if o.Within > 0 {
		within = ms(o.Within)
	}
	settle := func(fd int, err error) error {
		var failed *connectError
		switch {
		case err == nil:
			f["ok"]++
			p.kept[name] = append(p.kept[name], fd)
			return nil
		case errors.As(err, &failed):
			f[errnoName(failed.errno)]++
			return unix.Close(fd)
		case errors.Is(err, unix.ETIMEDOUT) && o.Within > 0:
			f["pending"]++
			p.kept[name] = append(p.kept[name], fd)
			return nil
		}
		return errors.Join(err, unix.Close(fd))
	}
	var begun []int
	for range o.Times {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return f, fmt.Errorf("socket: %w", err)
		}
		if o.Keepalive {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
				return f, errors.Join(fmt.Errorf("setsockopt SO_KEEPALIVE: %w", err), unix.Close(fd))
			}
		}
		if o.UserTimeout > 0 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, o.UserTimeout); err != nil {
				return f, errors.Join(fmt.Errorf("setsockopt TCP_USER_TIMEOUT: %w", err), unix.Close(fd))
			}
		}
		err = startConnect(fd, to)
		if o.AtOnce && errors.Is(err, unix.EINPROGRESS) {
			begun = append(begun, fd)
			continue
		}
		if errors.Is(err, unix.EINPROGRESS) {
			err = finishConnect(fd, within)
		}
		if err := settle(fd, err); err != nil {
			return f, err
		}
	}
	for _, fd := range begun {
		if err := settle(fd, finishConnect(fd, within)); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (p *program) act(a *Act) (Figures, error) {
	fds, ok := p.kept[a.On]
	if !ok {
		return nil, fmt.Errorf("the program has no connections of a step %q", a.On)
	}
	if a.Only > 0 {
		fds = fds[:min(a.Only, len(fds))]
	}
	f := Figures{}
	for _, fd := range fds {
		n, err := actOn(fd, a)
		if n > 0 && (a.Do == DoFill || a.Do == DoRead) {
			f["bytes"] += n
		}
		var errno unix.Errno
		switch {
		case err == nil:
			f["ok"]++
		case errors.As(err, &errno):
			f[errnoName(errno)]++
		default:
			return f, err
		}
	}
	if a.Do == DoClose || a.Do == DoReset {
		p.kept[a.On] = p.kept[a.On][len(fds):]
	}
	return f, nil
}

// actOn does something to a connection and returns how many bytes went.
func actOn(fd int, a *Act) (n int, err error) {
	switch a.Do {
	case DoShutdown:
		return 0, unix.Shutdown(fd, unix.SHUT_WR)
	case DoClose:
		return 0, unix.Close(fd)
	case DoReset:
		// Onoff with a time of 0: close sends RST (tcp(7), socket(7)).
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return 0, err
		}
		return 0, unix.Close(fd)
	case DoWrite:
		return 0, write(fd, make([]byte, a.Bytes))
	case DoFill:
		return fill(fd)
	case DoRead:
		return read(fd, a.Bytes)
	}
	err = readToEnd(fd)
	if errors.Is(err, unix.ETIMEDOUT) && !failed(fd) {
		return 0, unix.EAGAIN
	}
	return 0, err
}

// failed reports whether the socket itself has an error or has come to its end:
// then a wait was not in vain.
func failed(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

func write(fd int, bytes []byte) error {
	for len(bytes) > 0 {
		n, err := unix.Write(fd, bytes)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLOUT, patience); err != nil {
				return err
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			bytes = bytes[n:]
		}
	}
	return nil
}

// fullAfter is how long nothing is taken of a connection that is full.
const fullAfter = 500 // milliseconds

// fill writes until the kernel takes no more.
func fill(fd int) (total int, err error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Write(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLOUT, ms(fullAfter)); errors.Is(err, unix.ETIMEDOUT) {
				return total, nil
			} else if err != nil {
				return total, err
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return total, err
		default:
			total += n
		}
	}
}

func read(fd, bytes int) (total int, err error) {
	buf := make([]byte, 64<<10)
	for total < bytes {
		n, err := unix.Read(fd, buf[:min(len(buf), bytes-total)])
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := await(fd, unix.POLLIN, patience); err != nil {
				return total, err
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return total, err
		case n == 0:
			return total, nil
		default:
			total += n
		}
	}
	return total, nil
}
