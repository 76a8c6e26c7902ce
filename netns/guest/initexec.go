package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// execSpec is what init must know of a command.
type execSpec struct {
	Terminal   bool
	Rows, Cols uint16
	program    // Env is set beside the guest's; an empty Dir is the guest's
}

// maxSpec bounds an execSpec on its way, in bytes. What the kernel executes is
// at most 6 MiB of arguments and environment (execve(2)); JSON takes a third
// more.
const maxSpec = 16 << 20

// exec starts a command and replies. It takes the descriptors over.
func (s *initState) exec(m message, fds []int) {
	out, err := s.execute(m.ID, fds)
	closeAll(fds)
	s.mu.Lock()
	delete(s.begun, m.ID)
	s.mu.Unlock()
	sendErr := s.ch.send(message{ID: m.ID, Fault: asFault(err)}, out...)
	closeAll(out)
	if sendErr != nil {
		os.Exit(1)
	}
}

// execute starts a command, and returns its process descriptor and its
// terminal, if it has one of its own.
func (s *initState) execute(id uint64, fds []int) (out []int, err error) {
	if len(fds) == 0 {
		return nil, &Error{Op: "exec", Err: errors.New("no specification")}
	}
	spec, err := s.readSpec(fds[0])
	if err != nil {
		return nil, &Error{Op: "exec", Err: err}
	}
	files := fds[1:]
	if spec.Terminal {
		master, slave, err := s.openPty(spec.Rows, spec.Cols)
		if err != nil {
			return nil, &Error{Op: "make a terminal in the sandbox", Err: err, Hint: ptyHint(err)}
		}
		defer unix.Close(slave)
		files = []int{slave, slave, slave}
		out = []int{master}
	}
	pidfd, err := s.command(id, spec, files)
	if err != nil {
		closeAll(out)
		return nil, err
	}
	return append([]int{pidfd}, out...), nil
}

// command starts a command with its standard descriptors.
func (s *initState) command(id uint64, spec execSpec, files []int) (pidfd int, err error) {
	s.mu.Lock()
	ready := s.pid != 0
	s.mu.Unlock()
	switch {
	case !ready:
		return -1, &Error{Op: "exec", Err: errors.New("the guest has not been started")}
	case len(files) != 3:
		return -1, &Error{Op: "exec", Err: fmt.Errorf("%d descriptors instead of 3", len(files))}
	}
	st := s.newStage(spec.program)
	st.session, st.control = true, spec.Terminal
	for to, from := range files { // from is above 2, where init has its own
		st.moves = append(st.moves, move{int32(from), int32(to)})
	}
	pid, pidfd, err := s.begin(st, spec.program, nil, func(pid int) {
		s.commands[pid] = id
		if !s.begun[id] {
			unix.Kill(pid, unix.SIGKILL)
		}
	})
	if err != nil && pid > 0 {
		s.mu.Lock()
		if s.commands[pid] == id {
			delete(s.commands, pid) // it has never begun, so its end is no news
		}
		s.mu.Unlock()
	}
	return pidfd, err
}

func (s *initState) readSpec(fd int) (spec execSpec, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return spec, err
	}
	if st.Size > maxSpec {
		return spec, fmt.Errorf("a specification of %d bytes", st.Size)
	}
	data := make([]byte, st.Size)
	for done := 0; done < len(data); {
		n, err := unix.Pread(fd, data[done:], int64(done))
		if err != nil {
			return spec, err
		}
		if n == 0 {
			return spec, errors.New("the specification is cut short")
		}
		done += n
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return spec, err
	}
	if len(spec.Args) == 0 {
		return spec, errors.New("no program to run")
	}
	spec.Env = withEnv(s.config.Env, spec.Env)
	if len(spec.Dir) == 0 {
		spec.Dir = s.config.Dir
	}
	return spec, nil
}

// withEnv is an environment with some variables set; the last of a name wins.
func withEnv(env, set [][]byte) [][]byte {
	name := func(v []byte) string {
		before, _, _ := bytes.Cut(v, []byte("="))
		return string(before)
	}
	last := map[string]int{}
	for i, v := range set {
		last[name(v)] = i
	}
	var out [][]byte
	for _, v := range env {
		if _, isSet := last[name(v)]; !isSet {
			out = append(out, v)
		}
	}
	for i, v := range set {
		if last[name(v)] == i {
			out = append(out, v)
		}
	}
	return out
}

// openPty makes a terminal in the sandbox's own devpts. The guest can use its
// end, as it can any file of its user's, but cannot put another in its place.
func (s *initState) openPty(rows, cols uint16) (master, slave int, err error) {
	master, err = unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	slave, err = peerOf(master)
	if err == nil {
		err = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
		if u := s.config.User; err == nil && u != nil && s.config.Privileged {
			err = unix.Fchown(slave, u.UID, -1)
		}
		if err != nil {
			unix.Close(slave)
		}
	}
	if err != nil {
		unix.Close(master)
	}
	return master, slave, err
}

// peerOf opens the other end of a terminal (ioctl_tty(2), TIOCGPTPEER).
func peerOf(master int) (slave int, err error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func ptyHint(err error) string {
	if errors.Is(err, unix.ENOSPC) {
		return "there are as many terminals as kernel.pty.max allows"
	}
	return resourceHint(err)
}

// abandon kills a command that nobody waits for to begin, now or as soon as
// there is one.
func (s *initState) abandon(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun[id] {
		s.begun[id] = false
	}
	for pid, of := range s.commands {
		if of == id {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// signalAll signals every process in the sandbox but init.
func signalAll(sig syscall.Signal) error {
	err := unix.Kill(-1, sig)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return &Error{Op: "signal", Err: err}
	}
	return nil
}
