package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// pathOf is where the namespace of o's thread is found.
func pathOf(t *testing.T, o *Own) Target {
	t.Helper()
	var path string
	if err := o.Do(func() error {
		path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return Target{Path: path}
}

// needTUN skips where there is no TUN device.
func needTUN(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

var attachLink = Link{
	MTU:       1500,
	Addresses: []netip.Prefix{netip.MustParsePrefix("198.18.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
	Gateways:  []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd00::1")},
}

func TestAttach(t *testing.T) {
	o := own(t)
	needTUN(t)
	target := pathOf(t, o)
	before := filesOpen(t)
	a, err := Attach(target, attachLink)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Up(); err != nil {
		t.Fatal(err)
	}
	if dev, err := a.ProcNet("dev"); err != nil || !strings.Contains(string(dev), "tcpbox0:") {
		t.Errorf("ProcNet(dev) = %q, %v", dev, err)
	}
	const name = "net.ipv4.tcp_fin_timeout"
	if err := a.SetSysctl(name, "33"); err != nil {
		t.Error(err)
	}
	for _, ns := range []NS{a, o} {
		if got, err := ns.Sysctl(name); got != "33" || err != nil {
			t.Errorf("Sysctl() = %q, %v; want 33", got, err)
		}
	}
	if got, err := a.Sysctl("net.ipv6.conf.tcpbox0.accept_ra"); got != "0" || err != nil {
		t.Errorf("accept_ra = %q, %v; want 0", got, err)
	}
	for what, err := range map[string]error{
		"a sysctl that there is not": a.SetSysctl("net.ipv4.no_such", "1"),
		"a value that it has not":    a.SetSysctl(name, "soon"),
		"no network sysctl":          a.SetSysctl("kernel.hostname", "x"),
		"no value":                   a.SetSysctl(name, ""),
	} {
		if err == nil {
			t.Errorf("%s was set", what)
		}
	}
	if _, err := a.ProcNet("../version"); !errors.Is(err, errProcNet) {
		t.Errorf("ProcNet(../version): %v", err)
	}
	if _, err := Attach(target, attachLink); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Attach: %v, want ErrInUse", err)
	}
	a.Close()
	a.Close()
	if err := a.SetSysctl(name, "34"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("SetSysctl after Close: %v", err)
	}
	if dev, err := o.ProcNet("dev"); err != nil || strings.Contains(string(dev), "tcpbox0:") {
		t.Errorf("after Close: %q, %v", dev, err)
	}
	if after := filesOpen(t); after != before {
		t.Errorf("%d descriptors are open, and were %d", after, before)
	}
}

func filesOpen(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestAttachRefuses: what must not be served is refused before anything is made.
func TestAttachRefuses(t *testing.T) {
	for _, row := range []struct {
		target Target
		want   error
	}{
		{Target{PID: os.Getpid()}, ErrOwnNamespace},
		{Target{Path: "/proc/self/ns/net"}, ErrOwnNamespace},
		{Target{PID: 1 << 29}, ErrNoNamespace},
		{Target{Path: "/proc/self/ns/user"}, ErrNoNamespace},
		{Target{Path: "/etc/passwd"}, ErrNoNamespace},
		{Target{Path: "/no/where"}, ErrNoNamespace},
		{Target{}, nil},
		{Target{PID: -1}, nil},
		{Target{PID: 1, Path: "/"}, nil},
	} {
		_, err := Attach(row.target, attachLink)
		var e *AttachError
		if !errors.As(err, &e) || row.want != nil && !errors.Is(err, row.want) {
			t.Errorf("Attach(%v) = %v, want %v", row.target, err, row.want)
		}
	}
	if _, err := os.Stat("/sys/class/net/tcpbox0"); err == nil {
		t.Error("there is a tcpbox0 in this namespace")
	}
}

// TestErrandsInABusyProcess: raw children disturb neither the runtime nor
// os/exec, and leave no zombie.
func TestErrandsInABusyProcess(t *testing.T) {
	o := own(t)
	ns, err := openNetNS(pathOf(t, o).Path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				fds, errs, err := enter(ns, -1, []errand{socketErrand(unix.AF_INET, unix.SOCK_DGRAM, 0)})
				if err != nil || errs[0] != nil {
					t.Error(err, errs)
					return
				}
				unix.Close(fds[0])
			}
		})
		all.Go(func() {
			for range 10 {
				if err := exec.Command("sh", "-c", "exit 3").Run(); err == nil || err.Error() != "exit status 3" {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil); err != unix.ECHILD {
		t.Errorf("there is a child: %d, %v", pid, err)
	}
	fds, errs, err := enter(ns, -1, []errand{socketErrand(-1, 0, 0)})
	if err != nil || !errors.Is(errs[0], unix.EAFNOSUPPORT) || fds[0] != -1 {
		t.Errorf("a socket that cannot be: %v, %v, %v", fds, errs, err)
	}
	if _, _, err := enter(0, -1, nil); !errors.Is(err, unix.EINVAL) {
		t.Errorf("what is no namespace: %v", err)
	}
}
