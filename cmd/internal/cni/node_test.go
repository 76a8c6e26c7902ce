package cni

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/integration/testnet"
)

// TestSweep: of the containers that are remembered, those go whose process and
// namespace are gone.
func TestSweep(t *testing.T) {
	p := newPlant(t)
	n := Node{BinDir: p.path, ConfDir: filepath.Join(p.dir, "conf"), StateDir: p.stateDir()}
	conf := p.conf("1.1.0", nil)
	var calls []call
	for _, id := range []string{"alive", "dead", "gone"} {
		ns, c := p.container(id, conf)
		p.add(c)
		calls = append(calls, c)
		switch id {
		case "dead":
			for _, st := range p.states() {
				if st.ContainerID == p.id(id) {
					p.must(unix.Kill(st.PID, unix.SIGKILL))
				}
			}
		case "gone":
			ns.Close()
		}
	}
	survey := func() string {
		all, err := n.Survey()
		p.must(err)
		var words []string
		for _, a := range all {
			words = append(words, fmt.Sprintf("%s alive=%v there=%v", p.nameOf(a.ContainerID), a.Alive, a.There))
		}
		return strings.Join(words, ", ")
	}
	testnet.Eventually(t, func() error {
		if got := survey(); got != "alive alive=true there=true, dead alive=false there=true, gone alive=false there=false" {
			return fmt.Errorf("there are %s", got)
		}
		return nil
	})
	if _, err := n.Uninstall(); err == nil || !strings.Contains(err.Error(), "3 containers") {
		t.Errorf("Uninstall: %v", err)
	}
	t.Setenv("CNI_COMMAND", "") // IPAM is called with this process's environment
	swept, err := n.Sweep()
	if err != nil || len(swept) != 1 || swept[0].ContainerID != p.id("gone") || swept[0].Shown() != "10.88.0.4 fd00:88::4" {
		t.Errorf("Sweep() = %+v, %v", swept, err)
	}
	if got := p.addresses(); got != "10.88.0.2 10.88.0.3" {
		t.Errorf("the pool has given out %q", got)
	}
	for _, c := range calls {
		p.del(c)
	}
	if removed, err := n.Uninstall(); err != nil || len(removed) != 1 { // the link in the plant's directory
		t.Errorf("Uninstall: %v, %v", removed, err)
	}
	p.must(os.Symlink("/nowhere", filepath.Join(p.path, "tcpbox-cni")))
}

// TestDefaultList: what install places is the example.
func TestDefaultList(t *testing.T) {
	example, err := os.ReadFile("../../../examples/cni/10-tcpbox.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(example, DefaultList) {
		t.Error("examples/cni/10-tcpbox.conflist and cmd/internal/cni/10-tcpbox.conflist differ")
	}
	dir := t.TempDir()
	for _, name := range []string{"tcpbox-cni", "host-local", "portmap", "tuning"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := CheckList(DefaultList, dir); err != nil {
		t.Errorf("CheckList() = %v", err)
	}
	for _, row := range []struct{ what, list, want string }{
		{"no JSON", "{", "no list of plugins"},
		{"no plugins", `{"name": "net"}`, `"name" and "plugins" are needed`},
		{"another first", `{"name": "net", "plugins": [{"type": "portmap"}]}`, `plugin 1 is "portmap"`},
		{"twice", `{"name": "net", "plugins": [{"type": "tcpbox-cni", "ipam": {"type": "host-local"}}, {"type": "tcpbox-cni", "ipam": {"type": "host-local"}}]}`, `plugin 2 is "tcpbox-cni"`},
		{"no IPAM", `{"name": "net", "plugins": [{"type": "tcpbox-cni"}]}`, `there is no "ipam"`},
		{"a path", `{"name": "net", "plugins": [{"type": "tcpbox-cni", "ipam": {"type": "../host-local"}}]}`, "is not the name of a plugin"},
		{"a plugin that there is not", `{"name": "net", "plugins": [{"type": "tcpbox-cni", "ipam": {"type": "dhcp"}}]}`, `the plugin "dhcp" is not in`},
	} {
		if err := CheckList([]byte(row.list), dir); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
	}
}
