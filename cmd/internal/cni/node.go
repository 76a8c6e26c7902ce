package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tcpbox/cmd/internal/control"
	"tcpbox/tun"
)

// Node is where a host has the plugin's things.
type Node struct {
	BinDir   string // plugins
	ConfDir  string // lists of plugins
	StateDir string // what is remembered of containers
}

// Attached is a container that is remembered.
type Attached struct {
	State

	// Alive: its stack process lives. There: its namespace is still there. One
	// that is neither has leaked: its runtime has not called DEL.
	Alive bool `json:"alive"`
	There bool `json:"there"`
}

// Leaked reports whether nobody will call DEL any more.
func (a *Attached) Leaked() bool { return !a.Alive && !a.There }

// Survey returns the containers that are remembered, and an error for each whose
// state cannot be read.
func (n Node) Survey() (all []Attached, err error) {
	dirs, err := filepath.Glob(filepath.Join(n.StateDir, "*", "*@*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		info, statErr := os.Stat(dir)
		if statErr != nil || !info.IsDir() {
			continue
		}
		st, loadErr := loadState(dir)
		if loadErr != nil || st == nil {
			err = errors.Join(err, loadErr)
			continue
		}
		all = append(all, Attached{State: *st, Alive: lives(st), There: isThereStill(st)})
	}
	return all, err
}

func lives(st *State) bool {
	_, err := control.Connect(st.Sandbox)
	return err == nil
}

func isThereStill(st *State) bool {
	info, err := os.Stat(st.NetNS)
	return err == nil && inode(info) == st.NetNSInode
}

// Sweep is DEL for what has leaked, and returns it.
func (n Node) Sweep() (swept []Attached, err error) {
	all, err := n.Survey()
	if setErr := os.Setenv("CNI_PATH", n.BinDir); setErr != nil {
		return nil, setErr
	}
	for _, a := range all {
		if !a.Leaked() {
			continue
		}
		c := &Conf{StateDir: n.StateDir}
		c.Name = a.Network
		if e := collect(c, a.attachment()); e != nil {
			err = errors.Join(err, fmt.Errorf("%s of %s: %w", a.IfName, a.ContainerID, e))
			continue
		}
		swept = append(swept, a)
	}
	return swept, err
}

// Problems are what of the host would keep a container from its network, or from
// the world. Lists of plugins that do not name tcpbox-cni are none of its business.
func (n Node) Problems() []error {
	var errs []error
	f, err := os.OpenFile(tun.Path, os.O_RDWR, 0)
	if err == nil {
		f.Close()
	} else {
		errs = append(errs, fmt.Errorf("no TUN device can be made: %w", err))
	}
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		value, err := os.ReadFile("/proc/sys/" + s)
		if err == nil && strings.TrimSpace(string(value)) == "0" {
			errs = append(errs, fmt.Errorf("containers reach no further than this host: sysctl -w %s=1", strings.ReplaceAll(s, "/", ".")))
		}
	}
	lists, err := n.lists()
	if err != nil {
		errs = append(errs, err)
	}
	if len(lists) == 0 {
		errs = append(errs, fmt.Errorf("no list of plugins in %s names %s", n.ConfDir, PluginName))
	}
	for _, path := range lists {
		data, err := os.ReadFile(path)
		if err == nil {
			err = CheckList(data, n.BinDir)
		}
		for _, e := range flatten(err) {
			if e != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path, e))
			}
		}
	}
	return errs
}

// lists are the files of ConfDir that name the plugin.
func (n Node) lists() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(n.ConfDir, "*.conflist"))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(files, func(path string) bool {
		data, err := os.ReadFile(path)
		return err != nil || !bytes.Contains(data, []byte(`"`+PluginName+`"`))
	}), nil
}

// Install places the plugin and a list of plugins, each at once or not at all, and
// the list last: a runtime begins to use it when it sees it. It returns what it has
// placed. A list that is wrong places nothing.
func (n Node) Install(plugin string, list []byte) (placed []string, err error) {
	if err := n.checkBefore(plugin, list); err != nil {
		return nil, err
	}
	for _, dir := range []string{n.BinDir, n.ConfDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	src, err := os.Open(plugin)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	binary := filepath.Join(n.BinDir, PluginName)
	if err := place(binary, src, 0o755); err != nil {
		return nil, err
	}
	conflist := filepath.Join(n.ConfDir, DefaultListName)
	if err := place(conflist, bytes.NewReader(list), 0o644); err != nil {
		return []string{binary}, err
	}
	return []string{binary, conflist}, nil
}

// checkBefore checks the list as if the plugin were in its place already.
func (n Node) checkBefore(plugin string, list []byte) error {
	info, err := os.Stat(plugin)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%q is not a program", plugin)
	}
	missing := isThere(n.BinDir, PluginName)
	var errs []error
	for _, e := range flatten(CheckList(list, n.BinDir)) {
		if e != nil && (missing == nil || e.Error() != missing.Error()) {
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

// place writes a file beside its place and renames it: a program that runs cannot be
// written to, and nobody is to see half of it.
func place(path string, from io.Reader, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Uninstall removes what Install has placed, the list first, and returns it. It is
// refused while there are containers: their DEL needs the plugin.
func (n Node) Uninstall() (removed []string, err error) {
	all, err := n.Survey()
	if err != nil {
		return nil, err
	}
	if len(all) > 0 {
		return nil, fmt.Errorf("there are %d containers, whose DEL needs the plugin", len(all))
	}
	for _, path := range []string{filepath.Join(n.ConfDir, DefaultListName), filepath.Join(n.BinDir, PluginName)} {
		switch err := os.Remove(path); {
		case err == nil:
			removed = append(removed, path)
		case !errors.Is(err, fs.ErrNotExist):
			return removed, err
		}
	}
	return removed, nil
}

// Shown are the addresses of a container in words.
func (a *Attached) Shown() string {
	var words []string
	for _, addr := range a.Addresses {
		words = append(words, netip.Addr.String(addr))
	}
	return strings.Join(words, " ")
}
