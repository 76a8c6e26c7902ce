package lab

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox/netns/sockdiag"
	"tcpbox/policy"
	"tcpbox/stack/tcpstate"
)

// host stands for the host of a sandbox: it is the network namespace of this
// process, which was started in one of its own.
type host struct {
	serves *program // which does the steps of InHost
}

// policyOfHost lets a sandbox reach the host, and nothing else.
func policyOfHost() (policy.Policy, error) {
	rule, err := policy.ParseRule(policy.Allow, "@host")
	return policy.Policy{Net: policy.NetNone, Rules: []policy.Rule{rule}}, err
}

// isOfHost reports whether only a lab that is OnHost counts it.
func isOfHost(name string) bool { return name == noPort || strings.HasPrefix(name, "upstream.") }

func errNotOnHost(name string) error {
	return fmt.Errorf("%q is counted only in a lab with where: %s", name, OnHost)
}

// dialled counts the sockets in a state whose port is nobody's who serves: both
// ends of a connection are in the namespace, and this is the stack's.
func (h *host) dialled(state tcpstate.State) (n int, err error) {
	sockets, err := sockdiag.Dump(h, sockdiag.Query{Proto: sockdiag.TCP, Family: sockdiag.Inet4, States: sockdiag.AllStates})
	if err != nil && !errors.Is(err, sockdiag.ErrChanged) {
		return 0, err
	}
	serves := make(map[uint16]bool)
	for i := range sockets {
		if s := &sockets[i]; s.State == tcpstate.Listen {
			serves[s.Local.Port()] = true
		}
	}
	for i := range sockets {
		if s := &sockets[i]; s.State == state && !serves[s.Local.Port()] {
			n++
		}
	}
	return n, nil
}

// Socket makes a socket in the namespace.
func (h *host) Socket(domain, typ, proto int) (*os.File, error) {
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("lab: socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// sysctlFile is where a sysctl of the namespace is.
func sysctlFile(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

// Sysctl reads a sysctl of the namespace.
func (h *host) Sysctl(name string) (string, error) {
	text, err := os.ReadFile(sysctlFile(name))
	return strings.TrimSpace(string(text)), err
}

// SetSysctl writes a sysctl of the namespace. Where the machine forbids that it is
// a noHostError.
func (h *host) SetSysctl(name, value string) error {
	file, err := os.OpenFile(sysctlFile(name), os.O_WRONLY, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return &noHostError{err}
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// ProcNet reads /proc/net/name of the namespace.
func (h *host) ProcNet(name string) ([]byte, error) { return os.ReadFile("/proc/self/net/" + name) }

// Close does nothing: the namespace ends with the process.
func (h *host) Close() error { return nil }

// noHostError says that this machine lets no host be made.
type noHostError struct{ err error }

func (e *noHostError) Error() string {
	return "this machine does not let a host of its own be made: " + e.err.Error()
}

func (e *noHostError) Unwrap() error { return e.err }

// hostRow is what the runner asks of ServeHost: a lab of one row.
type hostRow struct {
	Lab      *Lab          `json:"lab"`
	Strict   bool          `json:"strict"` // as Lab.strict
	Guest    []string      `json:"guest,omitempty"`
	KeepLog  bool          `json:"keep_log,omitempty"`
	Patience time.Duration `json:"patience,omitempty"`
}

// hostAnswer is what became of the row.
type hostAnswer struct {
	NoHost       string // why there was no host; else empty
	NoSandbox    string // why there was no sandbox on it; else empty
	Skipped, Err string
	Again        bool
	Took         time.Duration
	Measured     Figures
	Log          Log
}

// ServeHost runs one row of a lab in the network namespace of this process, which
// has to be new. It reads the row from r, writes what was measured to w, and ends
// early when r does. It is meant to be the whole program: tcpbox lab host.
func ServeHost(r io.Reader, w io.Writer, stderr *os.File) error {
	var ask hostRow
	dec := json.NewDecoder(r)
	if err := dec.Decode(&ask); err != nil {
		return fmt.Errorf("lab: read the row: %w", err)
	}
	ask.Lab.strict = ask.Strict
	if err := ask.Lab.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { // until the runner ends, or this process does
		var more hostRow
		_ = dec.Decode(&more)
		cancel(errors.New("lab: the runner has ended"))
	}()
	return gob.NewEncoder(w).Encode(ask.run(ctx, stderr))
}

func (a *hostRow) run(ctx context.Context, stderr *os.File) hostAnswer {
	if err := beNew(); err != nil {
		return hostAnswer{NoHost: err.Error()}
	}
	runner := Runner{
		Guest: a.Guest, Stderr: stderr, KeepLog: a.KeepLog, Patience: a.Patience,
		host: &host{serves: newProgram()},
	}
	row, again, err := runner.row(ctx, a.Lab, &a.Lab.Variants[0])
	if err != nil {
		return hostAnswer{NoSandbox: err.Error()}
	}
	return hostAnswer{Skipped: row.Skipped, Err: row.Err, Again: again, Took: row.Took, Measured: row.Measured, Log: row.Log}
}

// beNew makes the loopback of a new namespace work, and refuses one where it does
// already: what a lab sets on its host is not for the machine.
func beNew() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if lo.Uint16()&unix.IFF_UP != 0 {
		return errors.New("the network namespace is not a new one")
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// hostEnds is how long the process of a row has to end its sandbox.
const hostEnds = 20 * time.Second

// elsewhere runs a row in a process that stands for the sandbox's host. Where
// there can be none the row is skipped.
func (r *Runner) elsewhere(ctx context.Context, l *Lab, row Row) (_ Row, again bool, err error) {
	one := *l
	one.Variants = []Variant{*row.Variant}
	one.Client, one.Server = nil, nil
	ask := hostRow{Lab: &one, Strict: one.strict, Guest: r.Guest, KeepLog: r.KeepLog, Patience: r.Patience}
	var a hostAnswer
	for _, attr := range namespaces() {
		if a, err = r.askHost(ctx, &ask, attr); !errors.Is(err, unix.EPERM) {
			break
		}
	}
	var none *noHostError
	switch {
	case ctx.Err() != nil:
		return row, false, context.Cause(ctx)
	case errors.As(err, &none):
		row.Skipped = err.Error()
		return row, false, nil
	case err != nil:
		row.Err = err.Error()
		return row, false, nil
	case a.NoHost != "":
		row.Skipped = (&noHostError{errors.New(a.NoHost)}).Error()
		return row, false, nil
	case a.NoSandbox != "":
		row.Skipped = "no sandbox can be started on a host of its own: " + a.NoSandbox
		return row, false, nil
	}
	row.Skipped, row.Err, row.Took, row.Log = a.Skipped, a.Err, a.Took, a.Log
	if a.Measured != nil {
		row.Measured = a.Measured
	}
	return row, a.Again, nil
}

// namespaces are the ways to start a process in a network namespace of its own:
// for root, and for an ordinary user, who owns it by a user namespace.
func namespaces() (all []*syscall.SysProcAttr) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		all = append(all, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
	}
	return append(all, &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}, // for lo and the sysctls
	})
}

// askHost starts the process and has it run the row. An error that says that it
// cannot be started is a noHostError.
func (r *Runner) askHost(ctx context.Context, ask *hostRow, attr *syscall.SysProcAttr) (a hostAnswer, err error) {
	args := r.Host
	if args == nil {
		self, err := os.Executable()
		if err != nil {
			return a, fmt.Errorf("lab: %w", err)
		}
		args = []string{self, "lab", "host"}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr, cmd.WaitDelay = attr, hostEnds
	if r.Stderr != nil {
		cmd.Stderr = r.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return a, fmt.Errorf("lab: %w", err)
	}
	cmd.Cancel = in.Close // it ends by itself then, and its sandbox before it
	out, err := cmd.StdoutPipe()
	if err != nil {
		return a, fmt.Errorf("lab: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return a, &noHostError{err}
	}
	err = json.NewEncoder(in).Encode(ask)
	if err == nil {
		err = gob.NewDecoder(out).Decode(&a)
	}
	in.Close()
	if waitErr := cmd.Wait(); err != nil || waitErr != nil {
		return a, fmt.Errorf("lab: the process of the row's host ended: %w", errors.Join(err, waitErr))
	}
	return a, nil
}
