package tcpbox_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/netns"
	"tcpbox/stack/peer"
)

// foreign is a namespace that tcpbox did not make, and the path of it.
func foreign(t *testing.T) (ns *netns.Own, path string) {
	t.Helper()
	requireSandbox(t)
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns, path
}

func attach(t *testing.T, path string) *tcpbox.Sandbox {
	t.Helper()
	s, err := tcpbox.Attach(t.Context(), tcpbox.AttachConfig{Path: path, Config: tcpbox.Config{
		DNS: tcpbox.DNS{None: true}, Peers: []peer.Spec{{Name: "echo", Kind: peer.Echo, Port: 7}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// echoInside talks to the peer from inside the namespace.
func echoInside(ns *netns.Own) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{198, 18, 0, 16}}); err != nil {
			return err
		}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			return err
		}
		buf := make([]byte, 16)
		n, err := unix.Read(fd, buf)
		if err == nil && string(buf[:n]) != "hello" {
			err = fmt.Errorf("the peer said %q", buf[:n])
		}
		return err
	})
}

// interfaces lists those of the namespace.
func interfaces(t *testing.T, ns *netns.Own) string {
	t.Helper()
	var names []string
	err := ns.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestAttach(t *testing.T) {
	ns, path := foreign(t)
	s := attach(t, path)
	if err := echoInside(ns); err != nil {
		t.Error(err)
	}
	in := s.Inspect()
	if in.Kind != tcpbox.KindAttached || in.NetNS == 0 || in.Args == nil || !strings.Contains(in.Target, path) {
		t.Errorf("Inspect() = %+v", in)
	}
	if _, err := s.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"true"}}); !errors.Is(err, tcpbox.ErrNoGuest) {
		t.Errorf("Exec: %v", err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if err := s.Signal(sig); !errors.Is(err, tcpbox.ErrNoGuest) {
			t.Errorf("Signal(%v): %v", sig, err)
		}
	}
	if _, err := tcpbox.Attach(t.Context(), tcpbox.AttachConfig{Path: path}); !errors.Is(err, tcpbox.ErrInUse) {
		t.Errorf("a second Attach: %v", err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := s.Wait()
		waited <- err
	}()
	if err := s.Stop(t.Context(), time.Minute); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
	if got := interfaces(t, ns); got != "lo" {
		t.Errorf("after Stop the interfaces are %s", got)
	}
	s = attach(t, path)
	ns.Close()
	if _, err := s.Wait(); err != nil {
		t.Errorf("Wait at the namespace's end: %v", err)
	}
}

// TestAttachPublishes reaches a server in the namespace from outside.
func TestAttachPublishes(t *testing.T) {
	ns, path := foreign(t)
	s := attach(t, path)
	ports, err := s.Publish(t.Context(), tcpbox.Publish{Port: 8080})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", ports[0].Host.String()); err == nil {
		c.Close()
		t.Error("a port on which nobody listens inside was connected to")
	}
	var l int
	err = ns.Do(func() (err error) {
		if l, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(l, &unix.SockaddrInet4{Port: 8080}), unix.Listen(l, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	waitFor(t, "a connection from outside", func() (string, bool) {
		c, err := net.Dial("tcp", ports[0].Host.String())
		if err != nil {
			return err.Error(), false
		}
		c.Close()
		return "", true
	})
}

func TestAttachConfig(t *testing.T) {
	for _, row := range []struct {
		what string
		cfg  tcpbox.AttachConfig
		want string
	}{
		{"no namespace", tcpbox.AttachConfig{}, "no namespace to attach to"},
		{"two", tcpbox.AttachConfig{PID: 1, Path: "/x"}, "not by both"},
		{"no process", tcpbox.AttachConfig{PID: -4}, "no process -4"},
		{"a guest", tcpbox.AttachConfig{PID: 1, Config: tcpbox.Config{Args: []string{"true"}}}, "processes of its own"},
		{"lingering", tcpbox.AttachConfig{PID: 1, Config: tcpbox.Config{Linger: true}}, "processes of its own"},
	} {
		var bad *tcpbox.ConfigError
		if err := row.cfg.Check(); !errors.As(err, &bad) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
		if _, err := tcpbox.Attach(context.Background(), row.cfg); !errors.As(err, &bad) {
			t.Errorf("Attach with %s: %v", row.what, err)
		}
	}
	// This process's own network is never touched.
	_, err := tcpbox.Attach(t.Context(), tcpbox.AttachConfig{PID: os.Getpid()})
	if !errors.Is(err, tcpbox.ErrOwnNamespace) {
		t.Errorf("attach to our own network: %v", err)
	}
}

// TestAttachLeavesNothing attaches fifty times, in a process that lives on.

func TestAttachLeavesNothing(t *testing.T) {
	ns, path := foreign(t)
	attach(t, path).Close() // what is made once is made now
	goroutines, fds := runtime.NumGoroutine(), openFDs(t)
	for i := range 50 {
		s := attach(t, path)
		if i%10 == 0 {
			if err := echoInside(ns); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "goroutines as before", func() (string, bool) {
		n := runtime.NumGoroutine()
		return fmt.Sprint(n, " goroutines, ", goroutines, " before"), n <= goroutines
	})
	waitFor(t, "descriptors as before", func() (string, bool) {
		n := openFDs(t)
		return fmt.Sprint(n, " descriptors, ", fds, " before"), n <= fds
	})
	if got := interfaces(t, ns); got != "lo" {
		t.Errorf("the interfaces are %s", got)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil); err != unix.ECHILD {
		t.Errorf("there is a child: %d, %v", pid, err)
	}
}
