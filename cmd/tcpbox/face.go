package main

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A face shows a terminal that is in a sandbox on the caller's own, which
// passes all keys on meanwhile. A nil face does nothing.
type face struct {
	in, out *os.File // the caller's
	far     *os.File // the other end of the one in the sandbox
	sane    *unix.Termios

	quit     *os.File // its closing ends typing
	quitRead *os.File
	typing   sync.WaitGroup
	showing  sync.WaitGroup
}

// drainTime is how long a terminal may be silent, after its command has ended
// while others keep it open, before it is closed.
const drainTime = 100 * time.Millisecond

func showTerminal(far *os.File, streams Streams) (*face, error) {
	f := &face{in: streams.In, out: streams.Out, far: far}
	var err error
	if f.sane, err = unix.IoctlGetTermios(int(f.in.Fd()), unix.TCGETS); err != nil {
		return nil, hinted("standard input is no terminal any more: "+err.Error(), "")
	}
	if f.quitRead, f.quit, err = os.Pipe(); err != nil {
		return nil, err
	}
	f.enter()
	f.typing.Go(f.typeKeys)
	f.showing.Go(f.show)
	return f, nil
}

// enter makes the caller's terminal pass everything on (cfmakeraw, termios(3)).
// In the background that stops this process until it is in front.
func (f *face) enter() {
	if f == nil {
		return
	}
	raw := *f.sane
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(int(f.in.Fd()), unix.TCSETS, &raw) // an error: it is hung up, and typing ends
	f.resize()
}

// leave puts the caller's terminal back as it was.
func (f *face) leave() {
	if f != nil {
		_ = unix.IoctlSetTermios(int(f.in.Fd()), unix.TCSETS, f.sane)
	}
}

// resize gives the terminal in the sandbox the size of the caller's.
func (f *face) resize() {
	if f == nil {
		return
	}
	size, err := unix.IoctlGetWinsize(int(f.in.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	if raw, err := f.far.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	}
}

// close is called when the command has ended. What it wrote is shown first.
func (f *face) close() {
	if f == nil {
		return
	}
	_ = f.far.SetReadDeadline(time.Now().Add(drainTime))
	f.showing.Wait()
	f.quit.Close()
	f.typing.Wait()
	f.quitRead.Close()
	f.leave()
}

// typeKeys passes on what is typed, until quit is closed or the caller's
// terminal is hung up. That hangs up the one in the sandbox, too.
func (f *face) typeKeys() {
	buf := make([]byte, 4<<10)
	fds := []unix.PollFd{
		{Fd: int32(f.in.Fd()), Events: unix.POLLIN},
		{Fd: int32(f.quitRead.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || fds[1].Revents != 0 {
			return
		}
		n, err := unix.Read(int(f.in.Fd()), buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if n <= 0 || err != nil {
			_ = f.far.Close()
			return
		}
		if _, err := f.far.Write(buf[:n]); err != nil {
			return
		}
	}
}

// show shows what is written, until nobody can write any more, or nobody has
// for drainTime after the end of the command.
func (f *face) show() {
	buf := make([]byte, 32<<10)
	for over := false; ; {
		n, err := f.far.Read(buf)
		if n > 0 {
			if _, err := f.out.Write(buf[:n]); err != nil {
				_ = f.far.Close() // nobody sees it: the command is hung up
				return
			}
			if over {
				_ = f.far.SetReadDeadline(time.Now().Add(drainTime))
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !over {
			over = true
			_ = f.far.SetReadDeadline(time.Now().Add(drainTime))
			continue
		}
		if err != nil || n == 0 {
			return // EIO: the last one has closed it; io.EOF does not come
		}
	}
}
