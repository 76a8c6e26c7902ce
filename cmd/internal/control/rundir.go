package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that callers branch on.
var (
	// ErrExists: a live sandbox has the name already.
	ErrExists = errors.New("there is a sandbox of that name already")

	// ErrNotFound: no live sandbox has the name.
	ErrNotFound = errors.New("there is no such sandbox")

	// ErrEnded: the sandbox was there, and has ended meanwhile.
	ErrEnded = errors.New("it has ended")

	// ErrUnready: the sandbox's name is taken, and nobody answers under it.
	ErrUnready = errors.New("it does not answer: it is about to begin, or to end")

	// ErrRefused: the sandbox lives, and hung up without an answer.
	ErrRefused = errors.New("it refuses to answer: from inside the namespace that it serves it cannot be reached, and it may be about to end")

	// ErrInside: the runtime directory is hidden, for this is a sandbox.
	ErrInside = errors.New("sandboxes cannot be reached from inside a sandbox")
)

const (
	lockName = "lock"
	sockName = "sock"
)

// override replaces the runtime directory in tests.
var override string

// RuntimeDir returns the directory in which the caller's sandboxes have theirs,
// and makes it if need be: /run/tcpbox for root, tcpbox in $XDG_RUNTIME_DIR or
// else /tmp/tcpbox-UID for others. It is refused if anybody else could enter or
// exchange it. ErrInside: this is the inside of a sandbox.
func RuntimeDir() (string, error) {
	uid := os.Geteuid()
	dir := filepath.Join(os.TempDir(), "tcpbox-"+strconv.Itoa(uid))
	switch xdg := os.Getenv("XDG_RUNTIME_DIR"); {
	case uid == 0:
		dir = "/run/tcpbox"
	case xdg != "" && filepath.IsAbs(xdg):
		dir = filepath.Join(xdg, "tcpbox")
	}
	if override != "" {
		dir = override
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("control: make the runtime directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("control: runtime directory %q: %w", dir, err)
	}
	switch {
	case isHidden(dir):
		return "", fmt.Errorf("control: %w", ErrInside)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return "", fmt.Errorf("control: runtime directory %q is not a directory", dir)
	case int(st.Uid) != uid:
		return "", fmt.Errorf("control: runtime directory %q belongs to uid %d", dir, st.Uid)
	case st.Mode&0o077 != 0:
		return "", fmt.Errorf("control: runtime directory %q is open to others (mode %#o); close it with chmod 0700", dir, st.Mode&0o777)
	}
	return dir, nil
}

// isHidden says whether dir is covered as Server.Hide asks for: by a file system
// of its own that nobody can write to.
func isHidden(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&unix.ST_RDONLY != 0 && fs.Blocks <= 1
}

// An entry is one sandbox's place in the runtime directory.
type entry struct {
	dir  string
	lock *os.File // held; nil if another process holds it
}

func (e *entry) socket() string { return filepath.Join(e.dir, sockName) }

// claim takes the place of a sandbox that begins. What a dead one of that name
// left is taken over. ErrExists: a live one has it.
func claim(runtimeDir, name string) (*entry, error) {
	dir := filepath.Join(runtimeDir, name)
	for tries := 0; ; {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("control: %w", err)
		}
		e, err := lock(dir, os.O_CREATE, unix.LOCK_EX)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // somebody has just removed what a dead one left
		case err != nil:
			return nil, err
		case e.lock == nil && tries < claimTries:
			// Who lists the sandboxes locks for a moment.
			tries++
			time.Sleep(claimPause)
			continue
		case e.lock == nil:
			return nil, fmt.Errorf("control: %q: %w", name, ErrExists)
		}
		if err := os.Remove(e.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			e.lock.Close()
			return nil, fmt.Errorf("control: %w", err)
		}
		if err := e.removeAliases(); err != nil {
			e.lock.Close()
			return nil, fmt.Errorf("control: %w", err)
		}
		return e, nil
	}
}

// How often, and after how long, a lock is tried again before it is taken for
// that of a live sandbox.
const (
	claimTries = 20
	claimPause = 5 * time.Millisecond
)

// probe looks whether an entry is alive: then its lock is nil. Those who look do
// not take each other for alive. One that is dead may be removed.
func probe(dir string) (*entry, error) { return lock(dir, 0, unix.LOCK_SH) }

// lock tries to lock an entry, in the manner how. An entry whose lock is nil is
// locked by somebody else.
func lock(dir string, flags, how int) (*entry, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &entry{dir: dir}, nil
		}
		return nil, fmt.Errorf("control: lock %q: %w", path, err)
	}
	e := &entry{dir: dir, lock: f}
	if !e.isThere() {
		f.Close()
		return nil, fmt.Errorf("control: lock %q: %w", path, fs.ErrNotExist)
	}
	return e, nil
}

// isThere says whether the file that is locked is the entry's: it may have been
// removed, and made anew, between open and lock.
func (e *entry) isThere() bool {
	var ours, there unix.Stat_t
	return unix.Fstat(int(e.lock.Fd()), &ours) == nil && unix.Stat(filepath.Join(e.dir, lockName), &there) == nil && ours.Ino == there.Ino
}

// remove gives the place up. Who holds the lock may remove the files, and that of
// the lock last: from then on the directory may be another's.
func (e *entry) remove() error {
	gone := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		return err
	}
	err := errors.Join(e.removeAliases(), gone(os.Remove(e.socket())), gone(os.Remove(filepath.Join(e.dir, lockName))))
	if err == nil {
		err = gone(unix.Rmdir(e.dir))
	}
	return errors.Join(err, e.lock.Close())
}

// bury removes an entry that was found dead, unless somebody else does.
func (e *entry) bury() error {
	if unix.Flock(int(e.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !e.isThere() {
		return e.lock.Close()
	}
	return e.remove()
}

// live returns the names of the sandboxes that are alive, in alphabetical
// order, and removes what dead ones have left.
func live(runtimeDir string) ([]string, error) {
	dirs, err := os.ReadDir(runtimeDir)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	var names []string
	for _, d := range dirs {
		e, err := probe(filepath.Join(runtimeDir, d.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// In the making, or half removed: an empty directory is nobody's.
			_ = unix.Rmdir(filepath.Join(runtimeDir, d.Name()))
		case err != nil:
			return nil, err
		case e.lock == nil:
			names = append(names, d.Name())
		default:
			if err := e.bury(); err != nil {
				return nil, fmt.Errorf("control: remove what a dead sandbox left: %w", err)
			}
		}
	}
	return names, nil
}
