package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"tcpbox/netns"
	"tcpbox/tun"
)

// AttachConfig says which network namespace to serve, and how.
type AttachConfig struct {
	// PID is a process in the namespace. Exactly one of PID and Path is set.
	PID int

	// Path is where the namespace is found: /run/netns/NAME, as ip-netns(8) and
	// podman make it, or /proc/PID/ns/net.
	Path string

	// Config says how it is served. Of its fields those that are about a guest
	// have no meaning here and must be zero: Args, Env, Dir, Root, User,
	// Hostname, Hide, KeepFDs, Stdin, Stdout, Stderr, Linger, ForwardSignals.
	// NoIPv6 leaves IPv6 off the interface; without it, a namespace that has no
	// IPv6 is refused. An empty Name means "attach" and this process's number.
	Config
}

// Check reports everything that is wrong with c, as a *ConfigError. Attach does
// the same before anything else.
func (c AttachConfig) Check() error { return c.normalise() }

func (c *AttachConfig) normalise() error {
	var errs []error
	if err := c.target().Check(); err != nil {
		errs = append(errs, err)
	}
	if c.hasGuest() {
		errs = append(errs, errors.New("an attached namespace has processes of its own: what the configuration says of a guest has no meaning"))
	}
	if c.Name == "" {
		c.Name = NameFor([]string{"attach"})
	}
	return asConfigError(append(errs, c.Config.fill()...))
}

func (c *AttachConfig) target() netns.Target { return netns.Target{PID: c.PID, Path: c.Path} }

// Attach serves a network namespace that somebody else made, with an interface
// tcpbox0, its addresses and its default routes; nothing else in the namespace
// is changed but that lo is up. ctx bounds the starting only. If Attach fails,
// nothing is left of what it made.
//
// It needs root, or a namespace that is owned by a user namespace of the
// caller's, as "unshare -Urn" and bwrap make it. A namespace with a default
// route, or one that is served already, is refused, and so is this process's
// own and the machine's. An error may match *ConfigError or *AttachError, which
// has a hint.
//
// Wait returns when the namespace has come to its end: its last process has
// ended, for one that was named by a process, or the path is gone, for one that
// was named by a path. Close and Stop end the serving before, and never a
// process: the interface is gone, and with it the connections. A Signal of TERM
// or KILL does the same; there is no guest that could be sent another. The
// Status of Wait is always zero.
//
// Names reach the sandbox's resolver where the processes' /etc/resolv.conf says
// so, which is theirs: it has to name the first of Info.Gateways.
func Attach(ctx context.Context, cfg AttachConfig) (*Sandbox, error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	return begin(ctx, &cfg.Config, cfg.open)
}

// open makes the device in the namespace. Its processes may use it once it is
// up, which comes last.
func (c *AttachConfig) open(ctx context.Context, s *Sandbox, addrs addressPlan) (start func() error, err error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("tcpbox: attach to %v: %w", c.target(), context.Cause(ctx))
	}
	a, err := newAttached(c.target(), addrs.link(&c.Config, needsDefault6(&c.Config)))
	if err != nil {
		return nil, err
	}
	s.inside = a
	s.info.Kind, s.info.Target, s.info.NetNS = KindAttached, c.target().String(), a.ns.Inode()
	return a.ns.Up, nil
}

// ErrNoGuest is what an attached sandbox answers to that which needs a guest, or
// an init that could start one. Programs are started in its namespace with
// nsenter(1).
var ErrNoGuest = errors.New("an attached sandbox has no guest of its own")

// attached is the inside of a namespace that others live in.
type attached struct {
	target netns.Target
	ns     *netns.Attached
	device tun.Device

	watch    context.Context
	release  context.CancelFunc // ends the watch
	watching sync.WaitGroup
	done     chan struct{} // closed when the watch has ended
	err      error         // of the watch, once it has ended
}

func newAttached(t netns.Target, l netns.Link) (*attached, error) {
	ns, err := netns.Attach(t, l)
	if err != nil {
		return nil, err
	}
	a := &attached{target: t, ns: ns, done: make(chan struct{})}
	if a.device, err = ns.Device(); err != nil {
		return nil, errors.Join(fmt.Errorf("tcpbox: %w", err), ns.Close())
	}
	a.watch, a.release = context.WithCancel(context.Background())
	a.watching.Go(a.watchEnd)
	return a, nil
}

// watchEnd ends with the namespace, or when it is released.
func (a *attached) watchEnd() {
	defer close(a.done)
	if err := a.ns.Watch(a.watch); err != nil && a.watch.Err() == nil {
		a.err = err
	}
}

func (a *attached) Device() tun.Device { return a.device }

func (a *attached) NS() netns.NS { return a.ns }

// Wait waits for the end of the namespace, or for its release.
func (a *attached) Wait() (Status, error) {
	a.watching.Wait()
	return Status{}, a.err
}

// Done is closed when Wait returns.
func (a *attached) Done() <-chan struct{} { return a.done }

// Signal takes the signals that end a process as the request to end the
// serving.
func (a *attached) Signal(sig syscall.Signal) error {
	if sig != syscall.SIGTERM && sig != syscall.SIGKILL {
		return fmt.Errorf("tcpbox: signal %v: %w", sig, ErrNoGuest)
	}
	a.release()
	return nil
}

// Pids returns the process by which the namespace was named, or 0, as the
// guest's.
func (a *attached) Pids() (first, named int) { return 0, a.target.PID }

func (a *attached) Close() error {
	a.release()
	a.watching.Wait()
	return errors.Join(a.device.Close(), a.ns.Close())
}

// explain makes of the error that ended the gateway what it means here: whoever
// is root in the namespace can delete the interface.
func (a *attached) explain(err error) error {
	if !errors.Is(err, tun.ErrGone) {
		return err
	}
	return &AttachError{
		Target: a.target.String(),
		Err:    fmt.Errorf("the interface %s was deleted from inside the namespace: %w", a.device.Name(), err),
		Hint:   "attach again",
	}
}

// released reports whether there is no last delivery to wait for: the serving of
// an attached namespace was ended on request, and its processes may live on, or the
// namespace of a served one is gone with its device.
func released(in inside) bool {
	if _, ok := in.(*served); ok {
		return true
	}
	a, ok := in.(*attached)
	return ok && a.watch.Err() != nil
}
