// Package confine takes away from a process what a guest must not have:
// capabilities, the way to new privileges, and the few system calls that lead
// out of a network namespace. It knows nothing of sandboxes.
//
// Everything is prepared as a Plan while there is still a Go runtime, and
// carried out by Plan.Apply, which may run in a forked child.
//
// The capability bounding set is left as it is: without it a program with file
// capabilities, such as ping, cannot even be executed by uid 0, and
// no_new_privs already keeps everybody from gaining what the set would allow.
package confine

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Step names what Apply was doing when it failed.
type Step int32

// The steps of Apply, in their order. The zero Step is none.
const (
	StepNone Step = iota
	StepNoNewPrivs
	StepCapabilities
	StepSeccomp
)

func (s Step) String() string {
	switch s {
	case StepNone:
		return "nothing"
	case StepNoNewPrivs:
		return "set no_new_privs"
	case StepCapabilities:
		return "drop the capabilities"
	case StepSeccomp:
		return "install the seccomp filter"
	}
	return "unknown step"
}

// Plan is a confinement, ready to be applied. It must stay reachable until
// Apply has returned. A Plan may be applied any number of times.
type Plan struct {
	filter []unix.SockFilter
	prog   unix.SockFprog
	header unix.CapUserHeader
	caps   [2]unix.CapUserData // all zero
}

// Guest returns the confinement of every guest: no capability, no_new_privs,
// and a filter on system calls (see Filter).
func Guest() *Plan {
	p := &Plan{filter: Filter()}
	p.prog = unix.SockFprog{Len: uint16(len(p.filter)), Filter: &p.filter[0]}
	p.header.Version = unix.LINUX_CAPABILITY_VERSION_3
	return p
}

// Apply confines the calling thread, for good, and whatever it executes. On
// failure it says at which step; what was done until then stays.
//
// It makes raw system calls only and neither allocates nor grows its stack, so
// it may be called in a child between fork and exec.
//
//go:nosplit
//go:norace
func (p *Plan) Apply() (Step, syscall.Errno) {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return StepNoNewPrivs, e
	}
	// The ambient set is emptied with the permitted one.
	if _, _, e := syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&p.header)), uintptr(unsafe.Pointer(&p.caps)), 0); e != 0 {
		return StepCapabilities, e
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p.prog))); e != 0 {
		return StepSeccomp, e
	}
	return StepNone, 0
}
