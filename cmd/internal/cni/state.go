package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// An attachment is one interface of one container in one network. It is what DEL
// is told, and all names follow from it.
type attachment struct {
	Network, ContainerID, IfName string
}

func (a attachment) sum() string {
	sum := sha256.Sum256([]byte(a.Network + "\x00" + a.ContainerID + "\x00" + a.IfName))
	return hex.EncodeToString(sum[:])
}

// hostDevice is the interface in the host's namespace, at most 15 bytes long.
func (a attachment) hostDevice() string { return "tbx" + a.sum()[:11] }

// passing is the name of the container's interface before it is moved.
func (a attachment) passing() string { return "tbp" + a.sum()[:11] }

// sandbox is the name of the stack process on the control socket.
func (a attachment) sandbox() string { return "cni-" + a.sum()[:12] }

// madeUpMAC is a hardware address that nobody has: it is locally administered.
func (a attachment) madeUpMAC() string {
	sum := a.sum()
	return fmt.Sprintf("02:%s:%s:%s:%s:%s", sum[0:2], sum[2:4], sum[4:6], sum[6:8], sum[8:10])
}

// State is what is remembered of an attachment. It lies in
//
//	StateDir/NETWORK/CONTAINERID@IFNAME/state.json
//
// from before anything is made until everything is gone.
type State struct {
	V           int          `json:"v"`
	Network     string       `json:"network"`
	ContainerID string       `json:"containerID"`
	IfName      string       `json:"ifname"`
	Pod         string       `json:"pod,omitempty"` // NAMESPACE/POD
	NetNS       string       `json:"netns"`
	NetNSInode  uint64       `json:"netnsInode"` // of the namespace that NetNS led to
	HostDevice  string       `json:"hostDevice"`
	Sandbox     string       `json:"sandbox"` // the name for ls, ss and the others
	Addresses   []netip.Addr `json:"addresses,omitempty"`

	// The stack process; zero until it is ready. Start is field 22 of
	// /proc/PID/stat, which tells it from a later process of the same number.
	PID   int    `json:"pid,omitempty"`
	Start string `json:"start,omitempty"`

	// Conf is the configuration of ADD, for who has to undo it without any.
	Conf json.RawMessage `json:"conf"`
}

const stateVersion = 1

func (s *State) attachment() attachment { return attachment{s.Network, s.ContainerID, s.IfName} }

// A slot is the place of an attachment in the state directory, locked.
type slot struct {
	dir  string
	lock *os.File
}

func slotPath(stateDir string, a attachment) string {
	return filepath.Join(stateDir, a.Network, a.ContainerID+"@"+a.IfName)
}

func ioFailure(what string, err error) *types.Error {
	return types.NewError(types.ErrIOFailure, what+": "+err.Error(), "")
}

// takeSlot locks the place of an attachment. It waits for who has it.
func takeSlot(stateDir string, a attachment) (*slot, error) {
	dir := slotPath(stateDir, a)
	for {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return nil, ioFailure("the state directory", err)
		}
		f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody has just removed the directory, which was empty
		}
		if err != nil {
			return nil, ioFailure("the state directory", err)
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, ioFailure("lock "+f.Name(), err)
		}
		// It may have been removed, and made anew, between open and lock.
		var ours, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &ours) == nil && unix.Stat(f.Name(), &there) == nil && ours.Ino == there.Ino {
			return &slot{dir, f}, nil
		}
		f.Close()
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// free unlocks the place. If nothing is remembered there, it is removed first, and
// so are directories that are empty.
func (s *slot) free() {
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(s.lock.Name())
		network := filepath.Dir(s.dir)
		if unix.Rmdir(network) == nil {
			_ = unix.Rmdir(filepath.Dir(network))
		}
	}
	s.lock.Close()
}

// load returns what is remembered; nil if nothing is.
func (s *slot) load() (*State, error) { return loadState(s.dir) }

func loadState(dir string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := new(State)
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "state.json"), err)
	}
	if st.V != stateVersion {
		return nil, fmt.Errorf("%s: version %d of the state is not known", dir, st.V)
	}
	return st, nil
}

// save remembers st, at once or not at all.
func (s *slot) save(st *State) error {
	st.V = stateVersion
	data, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return ioFailure("the state", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return ioFailure("the state", err)
	}
	path := filepath.Join(s.dir, "state.json")
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return ioFailure("the state", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return ioFailure("the state", err)
	}
	return nil
}

// forget removes what is remembered.
func (s *slot) forget() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return ioFailure("the state", err)
	}
	return nil
}

// attachments are those that are remembered of a network.
func attachments(stateDir, network string) ([]attachment, error) {
	entries, err := os.ReadDir(filepath.Join(stateDir, network))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioFailure("the state directory", err)
	}
	var all []attachment
	for _, e := range entries {
		id, ifname, ok := strings.Cut(e.Name(), "@")
		if ok && e.IsDir() {
			all = append(all, attachment{network, id, ifname})
		}
	}
	return all, nil
}
