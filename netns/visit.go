package netns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Visitor is the way into a namespace that somebody else made and owns. It keeps
// nothing of it open between two calls, so that it does not keep the namespace
// alive: it finds it again by its path, each time.
type Visitor struct {
	errands
	target Target
	id     id
}

// Visit returns the way into the namespace behind a path. The path has to lead
// there whenever the Visitor is used; where it leads elsewhere, or nowhere, the
// errors match ErrNoNamespace. The namespace of this process and that of the
// machine are refused. Its errors match *AttachError.
func Visit(path string) (*Visitor, error) {
	v := &Visitor{target: Target{Path: path}}
	v.errands = v.enter
	fd, _, err := v.target.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if v.id, err = idOf(fd); err != nil {
		return nil, &AttachError{v.target.String(), err, ""}
	}
	switch ours, err := isOurs(v.id); {
	case err != nil:
		return nil, &AttachError{v.target.String(), err, ""}
	case ours:
		return nil, &AttachError{v.target.String(), ErrOwnNamespace, "name the namespace of a container, as \"ip netns add\" makes one"}
	}
	return v, nil
}

// Inode identifies the namespace, as in /proc/PID/ns/net.
func (v *Visitor) Inode() uint64 { return v.id.ino }

func (v *Visitor) enter(what ...errand) (fds []int, errs []error, err error) {
	fd, _, err := v.target.open()
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(fd)
	now, err := idOf(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("netns: %v: %w", v.target, err)
	}
	if now != v.id {
		return nil, nil, &AttachError{v.target.String(), &because{"another namespace lies there now", ErrNoNamespace}, ""}
	}
	owner, err := unix.IoctlRetInt(fd, nsGetUserNS)
	if err != nil {
		owner = -1 // it is outside of ours, so that there is nothing to enter
	} else {
		defer unix.Close(owner)
	}
	return enter(fd, owner, what)
}

// Close implements NS. There is nothing to let go.
func (v *Visitor) Close() error { return nil }

var _ NS = (*Visitor)(nil)
