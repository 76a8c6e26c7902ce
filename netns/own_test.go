package netns

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOwn(t *testing.T) {
	o, other := own(t), own(t)
	const name = "net.ipv4.tcp_fin_timeout"
	for i, ns := range []*Own{o, other} {
		if err := ns.SetSysctl(name, []string{"31", "32"}[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := o.Sysctl(name); got != "31" || err != nil {
		t.Errorf("Sysctl() = %q, %v; want 31", got, err)
	}
	dev, err := o.ProcNet("dev")
	if err != nil || strings.Count(string(dev), ":") != 1 {
		t.Errorf("ProcNet(dev) = %q, %v; want lo alone", dev, err)
	}
	file, err := o.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	want := errors.New("f's")
	if err := o.Do(func() error { return want }); err != want {
		t.Errorf("Do() = %v", err)
	}
	o.Close()
	o.Close()
	if err := o.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do() on a closed namespace = %v", err)
	}
}

func TestSysctlPath(t *testing.T) {
	for _, row := range []struct{ name, want string }{
		{"net.ipv4.ip_forward", "net/ipv4/ip_forward"},
		{"net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"},
		{"kernel.core_pattern", ""},
		{"net", ""},
		{"", ""},
		{"net.", ""},
		{".net", ""},
		{"net..x", ""},
		{"net.//.kernel", ""},
		{"net.x\x00", ""},
	} {
		got, err := SysctlPath(row.name)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("SysctlPath(%q) = %q, %v; want %q", row.name, got, err, row.want)
		}
	}
}

// FuzzSysctlPath: no name leads out of net.
func FuzzSysctlPath(f *testing.F) {
	for _, s := range []string{"net.ipv4.ip_forward", "net.//.x", "net./.x", "", "net.ipv4.conf.a/b.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := SysctlPath(name)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "net/") || strings.Contains("/"+path+"/", "/../") || strings.Contains(path, "//") {
			t.Errorf("SysctlPath(%q) = %q", name, path)
		}
	})
}

func TestCheckProcNet(t *testing.T) {
	for name, ok := range map[string]bool{
		"tcp": true, "stat/nf_conntrack": true, "": false, "/tcp": false, "../x": false, "a/../b": false, ".": false, "a\x00": false,
	} {
		if err := CheckProcNet(name); (err == nil) != ok {
			t.Errorf("CheckProcNet(%q) = %v", name, err)
		}
	}
}
