package netns

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"tcpbox/tun"
)

// ioctl(2) of a namespace (linux/nsfs.h).
const (
	nsGetUserNS = 0xb701
	nsGetType   = 0xb703
)

// Attached is a device in a network namespace that somebody else made, and the
// way into that namespace. The device and the descriptors here keep the
// namespace alive, so its end is watched for by other means: see Watch.
type Attached struct {
	errands
	target Target
	id     id
	link   Link
	fd     int // the device's, until Device takes it; -1 then
	route  int // a netlink socket inside

	mu     sync.RWMutex
	ns     int // -1 after Close
	owner  int // the user namespace that owns ns, or -1
	pidfd  int // of the target, or -1
	closed bool
}

// Attach makes a device in an existing namespace, as l says, but leaves it down
// and without addresses: see Up. It is refused where there is a network already,
// and in the namespace of this process or of the machine. Nothing else in the
// namespace is changed. Its errors match *AttachError.
func Attach(t Target, l Link) (*Attached, error) {
	fail := func(err error, hint string) (*Attached, error) {
		return nil, &AttachError{t.String(), err, hint}
	}
	if err := errors.Join(t.Check(), l.Check()); err != nil {
		return fail(err, "")
	}
	l.Name = cmp.Or(l.Name, tun.DefaultName)
	ns, pidfd, err := t.open()
	if err != nil {
		return nil, err
	}
	a := &Attached{target: t, link: l, fd: -1, route: -1, ns: ns, owner: -1, pidfd: pidfd}
	a.errands = a.enter
	if err := a.begin(); err != nil {
		a.Close()
		var e *AttachError
		if errors.As(err, &e) {
			return nil, err
		}
		return fail(err, "")
	}
	return a, nil
}

// begin does all of Attach that needs the namespace open. It looks before it
// makes anything.
func (a *Attached) begin() (err error) {
	fail := func(err error, hint string) error { return &AttachError{a.target.String(), err, hint} }
	if a.id, err = idOf(a.ns); err != nil {
		return err
	}
	switch ours, err := isOurs(a.id); {
	case err != nil:
		return err
	case ours:
		return fail(ErrOwnNamespace, "serving it would cut the machine off; name a namespace apart from it, as \"unshare -Urn\" or \"ip netns add\" makes")
	}
	if a.owner, err = unix.IoctlRetInt(a.ns, nsGetUserNS); err != nil {
		a.owner = -1 // it is outside of ours, so that there is nothing to enter
	}
	if err := a.look(); err != nil {
		return err
	}
	device, err := tunErrand(a.link.Name)
	if err != nil {
		return fail(&tun.OpenError{Op: "name", Name: a.link.Name, Err: err}, "")
	}
	fds, errs, err := a.enter(device)
	if err != nil {
		return explainEnter(a.target, err)
	}
	if errs[0] != nil {
		return explainTUN(a.target, a.link.Name, errs[0])
	}
	a.fd = fds[0]
	return a.prepare()
}

// look finds out whether the namespace can be served. It keeps the socket.
func (a *Attached) look() error {
	fail := func(err error, hint string) error { return &AttachError{a.target.String(), err, hint} }
	errands := []errand{socketErrand(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)}
	for _, name := range []string{"all", "default"} {
		e, err := openErrand("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", unix.O_RDONLY)
		if err != nil {
			return err
		}
		errands = append(errands, e)
	}
	fds, errs, err := a.enter(errands...)
	if err != nil {
		return explainEnter(a.target, err)
	}
	if errs[0] != nil {
		return fail(errs[0], "")
	}
	a.route = fds[0]
	without := ""
	for i, fd := range fds[1:] {
		if errs[i+1] != nil {
			without = "this kernel has no IPv6"
			continue
		}
		value, err := readAll(fd)
		if err == nil && value == "1" {
			without = cmp.Or(without, "IPv6 is switched off in the namespace")
		}
	}
	if without != "" && !a.link.NoIPv6 {
		return fail(errors.New(without), "serve it with --no-ipv6")
	}
	if _, err := linkIndex(a.route, a.link.Name); err == nil {
		return inUse(a.target, a.link.Name)
	}
	routes, err := defaultRoutes(a.route)
	if err != nil {
		return err
	}
	if len(routes) > 0 {
		return fail(&because{"the namespace has a default route already (" + routes[0] + ")", ErrInUse},
			"it has a network of its own, which tcpbox does not take away; remove the route, or name a namespace without")
	}
	return nil
}

func readAll(fd int) (string, error) {
	f := os.NewFile(uintptr(fd), "sysctl")
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSysctl))
	return strings.TrimRight(string(data), "\n"), err
}

// prepare makes the interface, and nothing else in the namespace, begin the way
// it shall be: what Before says of every interface to come is said of this one.
func (a *Attached) prepare() error {
	conf := "net.ipv6.conf." + a.link.Name + "."
	settings := []Sysctl{
		{conf + "disable_ipv6", "0"},
		{conf + "accept_ra", "0"},
		{conf + "accept_dad", "0"},
		{conf + "router_solicitations", "0"},
		{conf + "addr_gen_mode", "1"}, // IN6_ADDR_GEN_MODE_NONE
	}
	if a.link.NoIPv6 {
		settings = []Sysctl{{conf + "disable_ipv6", "1"}}
	}
	errands := make([]errand, 0, len(settings))
	for _, s := range settings {
		e, err := sysctlErrand(s.Name, s.Value)
		if err != nil {
			return err
		}
		errands = append(errands, e)
	}
	_, errs, err := a.enter(errands...)
	if err != nil {
		return err
	}
	for i, err := range errs {
		if err == nil || errors.Is(err, unix.ENOENT) && a.link.NoIPv6 {
			continue
		}
		return &AttachError{
			a.target.String(), fmt.Errorf("sysctl %s: %w", settings[i].Name, err),
			"it takes a writable /proc/sys, and the right to administrate the namespace's network",
		}
	}
	return nil
}

func sysctlErrand(name, value string) (errand, error) {
	path, err := SysctlPath(name)
	if err != nil {
		return errand{}, fmt.Errorf("netns: sysctl %q: %w", name, err)
	}
	return writeErrand("/proc/sys/"+path, value)
}

// Up brings up lo and the interface, with its addresses and routes.
func (a *Attached) Up() error {
	if err := a.link.upThrough(a.route); err != nil {
		return &AttachError{a.target.String(), fmt.Errorf("bring up the network: %w", err), ""}
	}
	return nil
}

// Device returns the device. It is called once, and the caller closes what it
// gives.
func (a *Attached) Device() (tun.Device, error) {
	fd := a.fd
	a.fd = -1
	return tun.New(fd, a.link.Name, a.link.MTU)
}

// Inode identifies the namespace, as in /proc/PID/ns/net.
func (a *Attached) Inode() uint64 { return a.id.ino }

// enter does errands in the namespace.
func (a *Attached) enter(errands ...errand) (fds []int, errs []error, err error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return nil, nil, fmt.Errorf("netns: %w", os.ErrClosed)
	}
	return enter(a.ns, a.owner, errands)
}

// Close lets the namespace go. The device is closed only if nobody has taken
// it. It is safe to call twice, and always returns nil.
func (a *Attached) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	for _, fd := range []*int{&a.fd, &a.route, &a.ns, &a.owner, &a.pidfd} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	return nil
}

var _ NS = (*Attached)(nil)
