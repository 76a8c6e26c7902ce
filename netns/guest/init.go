package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
	"tcpbox/tun"
)

// Init must be the first call in main, and in TestMain. In an ordinary process
// it does nothing. In a process that was executed to be the init of a sandbox
// it is that init, and does not return.
func Init() {
	if len(os.Args) == 1 && os.Args[0] == initName {
		runInit()
	}
}

// runInit sets the sandbox up and serves the caller. Its exit ends everything
// in the sandbox, for it is pid 1.
func runInit() {
	// Only what init itself opens is inherited by nobody; the caller may have
	// been born with more.
	if err := unix.CloseRange(controlFD, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		os.Exit(1) // ENOSYS; the caller sees init die
	}
	ch, err := newChannel(controlFD)
	if err != nil {
		os.Exit(1) // not executed by launch
	}
	s := &initState{ch: ch, signals: watchSignals(), commands: map[int]uint64{}, begun: map[uint64]bool{}}
	ready, tunFD, err := s.setup()
	if err != nil {
		ch.send(message{Op: opReady, Fault: asFault(err)})
		os.Exit(0)
	}
	if err := ch.send(ready, tunFD); err != nil {
		os.Exit(1)
	}
	unix.Close(tunFD) // the device persists; its descriptor is the caller's
	for {
		m, fds, err := ch.receive()
		if errors.Is(err, io.EOF) {
			os.Exit(0) // the caller is dead; PR_SET_PDEATHSIG may have missed it
		}
		if err != nil {
			os.Exit(1)
		}
		if m.Op == opExec {
			s.mu.Lock()
			s.begun[m.ID] = true
			s.mu.Unlock()
			go s.exec(m, fds) // whose progress others in the sandbox can hinder
			continue
		}
		if m.Op == opWaker && len(fds) == 1 {
			s.setWaker(fds[0])
			continue
		}
		closeAll(fds)
		s.serve(m)
	}
}

// initState is the init of a sandbox.
type initState struct {
	ch      *channel
	config  setup
	procSys int         // a clone of /proc/sys that stays writable
	files   unix.Rlimit // on open files, for the guest
	signals *signalWatch

	reporting sync.Mutex // before mu
	waker     int        // the caller's; 0 without one

	mu       sync.Mutex
	pid      int              // the guest's; 0 before it is started
	stopped  bool             // the guest is
	stops    int              // how often it has been
	ended    bool             // the guest has; its pid may be another's
	lingers  bool             // the caller knows that others have not
	early    []syscall.Signal // to be forwarded as soon as there is a guest
	commands map[int]uint64   // those that live: the ID of the exec by the pid
	begun    map[uint64]bool  // IDs of exec without a reply yet; false: nobody waits for it
}

// setup makes the sandbox. The order is one that works: what the new mounts
// cover is cloned before, and read-only comes last.
func (s *initState) setup() (ready message, tunFD int, err error) {
	c := &s.config
	if err := readSetup(c); err != nil {
		return message{}, -1, &Error{Op: "read setup", Err: err}
	}
	dir, dirErr := s.workingDirectory()
	if dirErr != nil {
		return message{}, -1, dirErr
	}
	c.Dir = []byte(dir)
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return message{}, -1, mountError("set hostname", err)
		}
	}
	if err := privateMounts(); err != nil {
		return message{}, -1, err
	}
	if s.procSys, err = freshProc(); err != nil {
		return message{}, -1, err
	}
	if tunFD, err = s.link(); err != nil {
		return message{}, -1, err
	}
	if err := s.sysctls(); err != nil {
		return message{}, -1, err
	}
	remark, err := mountAll(c.Etc, c.Hide)
	if err != nil {
		return message{}, -1, err
	}
	// Nothing shall be reached through the directory init began in.
	if err := unix.Chdir("/"); err != nil {
		return message{}, -1, &Error{Op: "change to /", Err: err}
	}
	if s.files, err = callerFileLimit(); err != nil {
		return message{}, -1, &Error{Op: "read the limit on open files", Err: err}
	}
	return message{Op: opReady, Name: c.Link.Name, Value: remark}, tunFD, nil
}

func readSetup(c *setup) error {
	file := os.NewFile(setupFD, "setup")
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	data := make([]byte, info.Size())
	if _, err := file.ReadAt(data, 0); err != nil {
		return err
	}
	return json.Unmarshal(data, c)
}

// workingDirectory is the path of the guest's working directory. It is looked
// up again among the sandbox's mounts: the directory itself might be one of
// the host's that they cover.
func (s *initState) workingDirectory() (string, error) {
	if len(s.config.Dir) > 0 {
		return string(s.config.Dir), nil
	}
	buf := make([]byte, 4096)
	n, err := unix.Getcwd(buf)
	if err == nil && (n < 2 || buf[0] != '/') { // "(unreachable)/…"
		err = unix.ENOENT
	}
	if err != nil {
		return "", &Error{
			Op: "find the working directory", Err: err,
			Hint: "the current directory is deleted or out of reach; change to another, or name one for the guest with --workdir",
		}
	}
	return string(buf[:n-1]), nil
}

// link makes the device, and everything about it.
func (s *initState) link() (tunFD int, err error) {
	link := &s.config.Link
	if !link.NoIPv6 && !s.hasIPv6() {
		*link = withoutIPv6(*link)
	}
	for _, p := range link.Before() {
		err := netns.WriteSysctl(s.procSys, p.Name, p.Value)
		if err != nil && !errors.Is(err, unix.ENOENT) { // a kernel without IPv6, or an older one
			return -1, &Error{Op: "prepare the network", Err: err}
		}
	}
	// Persistent is right: the device ends with the namespace, which ends with
	// init.
	fd, name, err := tun.Open(tun.Options{Name: link.Name, Persist: true})
	if err != nil {
		e := &Error{Op: "make the TUN device", Err: err}
		if open := (*tun.OpenError)(nil); errors.As(err, &open) {
			e.Hint = open.Hint()
		}
		return -1, e
	}
	link.Name = name
	if err := link.Up(); err != nil {
		unix.Close(fd)
		return -1, &Error{Op: "bring up the network", Err: err}
	}
	return fd, nil
}

// withoutIPv6 is the link on a kernel that has no IPv6.
func withoutIPv6(l netns.Link) netns.Link {
	l.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), func(p netip.Prefix) bool { return p.Addr().Is6() })
	l.Gateways = slices.DeleteFunc(slices.Clone(l.Gateways), netip.Addr.Is6)
	l.NoIPv6 = true
	return l
}

func (s *initState) hasIPv6() bool {
	_, err := netns.ReadSysctl(s.procSys, "net.ipv6.conf.all.disable_ipv6")
	return err == nil
}

// sysctls writes the configured ones. Ping sockets are opened to the guest's
// group, and all ports to the guest, first, so that the configuration has the
// last word.
func (s *initState) sysctls() error {
	gid := s.config.GID
	if s.config.User != nil {
		gid = s.config.User.GID
	}
	err := netns.WriteSysctl(s.procSys, "net.ipv4.ping_group_range", fmt.Sprintf("%d %d", gid, gid))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &Error{Op: "open ping sockets to the guest", Err: err}
	}
	// Without capabilities the guest could bind no port below 1024, and all
	// that the ports of a sandbox could be mistaken for is in the sandbox.
	err = netns.WriteSysctl(s.procSys, "net.ipv4.ip_unprivileged_port_start", "0")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &Error{Op: "open all ports to the guest", Err: err}
	}
	for _, p := range s.config.Defaults {
		err := netns.WriteSysctl(s.procSys, p.Name, p.Value)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return &Error{Op: "set a sysctl to its default", Err: err}
		}
	}
	for _, p := range s.config.Sysctls {
		if err := netns.WriteSysctl(s.procSys, p.Name, p.Value); err != nil {
			hint := ""
			if errors.Is(err, unix.ENOENT) {
				hint = "this kernel has no such parameter in a network namespace"
			}
			return &Error{Op: "set a sysctl", Err: err, Hint: hint}
		}
	}
	return nil
}

// callerFileLimit is the limit on open files that the caller was born with.
// The Go runtime raises the soft limit at its start, and keeps the old one to
// itself until syscall.Exec, which puts it back; also an exec that fails.
func callerFileLimit() (unix.Rlimit, error) {
	var raised, born unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return born, err
	}
	_ = syscall.Exec("/", []string{"/"}, nil) // EACCES
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &born); err != nil {
		return born, err
	}
	return born, unix.Setrlimit(unix.RLIMIT_NOFILE, &raised)
}

// serve carries out one request.
func (s *initState) serve(m message) {
	var (
		reply message
		fd    = -1
		err   error
	)
	switch m.Op {
	case opStart:
		fd, err = s.start()
	case opForward:
		if len(m.Ints) == 2 {
			s.forward(syscall.Signal(m.Ints[0]), m.Ints[1])
		}
		return
	case opResume:
		if len(m.Ints) == 1 {
			s.resume(m.Ints[0])
		}
		return
	case opAbandon:
		if len(m.Ints) == 1 {
			s.abandon(uint64(m.Ints[0]))
		}
		return
	case opSignalAll:
		err = syscall.EINVAL
		if len(m.Ints) == 1 {
			err = signalAll(syscall.Signal(m.Ints[0]))
		}
	case opSocket:
		err = syscall.EINVAL
		if len(m.Ints) == 3 {
			fd, err = unix.Socket(m.Ints[0], m.Ints[1]|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, m.Ints[2])
		}
		if err != nil {
			err = &Error{Op: "make a socket in the sandbox", Err: err}
		}
	case opSysctl:
		reply.Value, err = netns.ReadSysctl(s.procSys, m.Name)
	case opSetSysctl:
		err = netns.WriteSysctl(s.procSys, m.Name, m.Value)
	case opProcNet:
		if err = netns.CheckProcNet(m.Name); err == nil {
			fd, err = unix.Open("/proc/self/net/"+m.Name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			err = &Error{Op: "open /proc/net/" + m.Name, Err: err}
		}
	default:
		err = &Error{Op: "serve", Err: fmt.Errorf("unknown request %q", m.Op)}
	}
	reply.ID, reply.Fault = m.ID, asFault(err)
	if fd < 0 || err != nil {
		err = s.ch.send(reply)
	} else {
		err = s.ch.send(reply, fd)
		unix.Close(fd)
	}
	if err != nil {
		os.Exit(1)
	}
	if m.Op == opStart && reply.Fault == nil {
		go s.reap()
	}
}
