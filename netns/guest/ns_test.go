package guest

import (
	"errors"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/netns"
)

// TestNS uses every way into the sandbox's namespace, before and while the
// guest runs.
func TestNS(t *testing.T) {
	asRoot.need(t)
	sb, err := New(t.Context(), quiet("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close()
	for _, when := range []string{"before the start", "after it"} {
		t.Run(when, func(t *testing.T) { useNS(t, sb) })
		if when == "before the start" {
			if err := sb.Start(); err != nil {
				t.Fatal(err)
			}
			if err := sb.Start(); err == nil {
				t.Error("a second Start succeeded")
			}
		}
	}
	if init, guest := sb.Pids(); init <= 0 || guest <= 0 || init == guest {
		t.Errorf("Pids() = %d, %d", init, guest)
	}
	if d := sb.Device(); d.Name() != "tcpbox0" || d.MTU() != 65520 {
		t.Errorf("device %q with MTU %d", d.Name(), d.MTU())
	}
	if err := sb.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if st, err := sb.Wait(); err != nil || st.Signal != unix.SIGTERM {
		t.Errorf("Wait() = %v, %v", st, err)
	}
}

func useNS(t *testing.T, sb *Sandbox) {
	ns := sb.NS()
	const name = "net.ipv4.tcp_fin_timeout"
	for _, value := range []string{"11", "12"} {
		if err := ns.SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
		if got, err := ns.Sysctl(name); got != value || err != nil {
			t.Errorf("Sysctl() = %q, %v; want %q", got, err, value)
		}
	}
	if err := ns.SetSysctl(name, "many"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a bad value: %v, want EINVAL", err)
	}
	for _, bad := range []string{"kernel.core_pattern", "net", "net..x", "net./.x", "net.ipv4.no_such_thing"} {
		if _, err := ns.Sysctl(bad); err == nil {
			t.Errorf("Sysctl(%q) succeeded", bad)
		}
		if err := ns.SetSysctl(bad, "1"); err == nil {
			t.Errorf("SetSysctl(%q) succeeded", bad)
		}
	}
	dev, err := ns.ProcNet("dev")
	if err != nil || !strings.Contains(string(dev), "tcpbox0:") {
		t.Errorf("ProcNet(dev) = %q, %v", dev, err)
	}
	if _, err := ns.ProcNet("../1/environ"); err == nil {
		t.Error("ProcNet led out of /proc/net")
	}
	// A listener inside is not one outside.
	file, err := ns.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	addr := &unix.SockaddrInet4{Addr: [4]byte{198, 18, 0, 2}}
	if err := unix.Bind(int(file.Fd()), addr); err != nil {
		t.Errorf("bind to the sandbox's address: %v", err)
	}
	if _, err := net.Listen("tcp4", "198.18.0.2:0"); err == nil {
		t.Error("the sandbox's address is the host's as well")
	}
	if _, err := ns.Socket(99, 0, 0); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("Socket(99) = %v, want EAFNOSUPPORT", err)
	}
	if err := ns.Close(); err != nil {
		t.Error(err)
	}
}

var _ netns.NS = nsOfInit{}

// TestTwoSandboxes: neither sees anything of the other.
func TestTwoSandboxes(t *testing.T) {
	asRoot.need(t)
	var boxes [2]*Sandbox
	for i := range boxes {
		sb, err := New(t.Context(), quiet("sleep", "1000"))
		if err != nil {
			t.Fatal(err)
		}
		defer sb.Close()
		boxes[i] = sb
	}
	const name = "net.ipv4.tcp_fin_timeout"
	for i, sb := range boxes {
		if err := sb.NS().SetSysctl(name, []string{"21", "22"}[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, sb := range boxes {
		if got, err := sb.NS().Sysctl(name); got != []string{"21", "22"}[i] || err != nil {
			t.Errorf("sandbox %d: %q, %v", i, got, err)
		}
	}
}

// BenchmarkTrue is the time from nothing to the end of a guest that does
// nothing.
func BenchmarkTrue(b *testing.B) {
	asRoot.need(b)
	for b.Loop() {
		sb, err := New(b.Context(), quiet("true"))
		if err != nil {
			b.Fatal(err)
		}
		if err := sb.Start(); err != nil {
			b.Fatal(err)
		}
		if st, err := sb.Wait(); err != nil || st.ExitCode() != 0 {
			b.Fatal(st, err)
		}
		sb.Close()
	}
}
