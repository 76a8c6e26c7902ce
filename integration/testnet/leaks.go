package testnet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// netVar is the environment variable by which a process is known to belong to
// a Net, whatever namespaces it has moved to and whoever its parent is.
const netVar = "TCPBOX_TESTNET"

// Processes returns the ids of the processes started in the Net that are still
// there, zombies of other parents included.
func (n *Net) Processes() ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range paths {
		env, err := os.ReadFile(path)
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), netVar+"="+n.id) {
			continue // it has ended meanwhile, or is not ours
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// checkLeaks fails t if, when everything else has been cleaned up, a process
// of the Net lives, or the test holds more descriptors or goroutines than now.
// It waits for them to end, since a kill is not the end yet.
func (n *Net) checkLeaks(t testing.TB) {
	t.Helper()
	files, err := openFiles()
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	goroutines := runtime.NumGoroutine()
	t.Cleanup(func() {
		if err := poll(n.NoProcesses); err != nil {
			t.Errorf("testnet: leak: %v", err)
		}
		err := poll(func() error {
			now, err := openFiles()
			if err == nil && len(now) > len(files) {
				last := now[max(0, len(now)-20):]
				err = fmt.Errorf("%d descriptors instead of %d, among them:\n%s", len(now), len(files), strings.Join(last, "\n"))
			}
			return err
		})
		if err != nil {
			t.Errorf("testnet: leak: %v", err)
		}
		err = poll(func() error {
			if now := runtime.NumGoroutine(); now > goroutines {
				var stacks bytes.Buffer
				if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
					return err
				}
				return fmt.Errorf("%d goroutines instead of %d:\n%s", now, goroutines, &stacks)
			}
			return nil
		})
		if err != nil {
			t.Errorf("testnet: leak: %v", err)
		}
	})
}

// NoProcesses returns an error while a process that was started in the Net lives.
func (n *Net) NoProcesses() error {
	pids, err := n.Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return fmt.Errorf("process %d still lives: %q", pid, strings.ReplaceAll(string(line), "\x00", " "))
	}
	return nil
}

// checkDevices fails t if the two namespaces have other devices than New gave
// them, such as a TUN device that was left behind.
func (n *Net) checkDevices(t testing.TB) {
	t.Helper()
	for ns, want := range map[*Namespace]string{n.Uplink: "lo uplink0", n.Remote: "lo remote0"} {
		err := poll(func() error {
			names, err := ns.Devices()
			if err != nil {
				return err
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != want {
				return fmt.Errorf("%s has the devices %s, want %s", ns.name, got, want)
			}
			return nil
		})
		if err != nil {
			t.Errorf("testnet: leak: %v", err)
		}
	}
}

// openFiles lists what this process has open, each as "number path".
func openFiles() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		// The directory itself was open while it was read.
		if path, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files = append(files, e.Name()+" "+path)
		}
	}
	return files, nil
}
