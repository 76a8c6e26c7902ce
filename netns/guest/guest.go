// Package guest runs a program in a sandbox: it makes the namespaces, the TUN
// device and the files that the guest sees, starts the program without a
// single capability, carries signals and job control, and ends everything
// together.
//
// What is on the other end of the device is its caller's business; so is what
// stands in resolv.conf. Begin with Init and New.
//
//	the caller's process        device, NS; its death ends init
//	  └─ init                   pid 1 of the sandbox; owns its namespaces
//	       ├─ the guest         inner user namespace, no capability
//	       └─ commands          each the same; see Sandbox.Exec
//
// Init is the caller's own binary, executed again: a program that uses this
// package calls Init first in main, and in TestMain.
//
// What a guest can still reach: the caller's files, with the caller's rights
// and none of root's overrides, Unix sockets among them; the descriptors it is
// given; and the caller's process group, for a signal to group 0 goes to the
// whole job. A caller with uid 0 gives its guest the files of uid 0, unless
// Config.User names somebody else.
//
// It needs Linux 5.12 or newer.
package guest

import (
	"log/slog"
	"os"

	"tcpbox/netns"
)

// Config says what runs in a sandbox, and what it finds there.
type Config struct {
	// Args is the guest's program and its arguments. A name without a slash
	// is looked for in the PATH of Env.
	Args []string

	// Env is the guest's environment, as in os.Environ. Nil means the
	// caller's.
	Env []string

	// Dir is the guest's working directory, an absolute path. Empty means the
	// caller's.
	Dir string

	// Root makes the guest see itself as uid and gid 0. It gains nothing by
	// it but the look.
	Root bool

	// User runs the guest as somebody else, with no supplementary group. Only
	// root can do that. Nil means as the caller.
	User *User

	// Hostname is the name of the machine inside. Empty means the caller's.
	Hostname string

	// Link is the sandbox's interface. An empty Name means
	// tun.DefaultName.
	Link netns.Link

	// Defaults are sysctls that are written, before Sysctls, where the kernel
	// has them: a new namespace copies some from the host.
	Defaults []netns.Sysctl

	// Sysctls are written, in their order, before the guest starts.
	Sysctls []netns.Sysctl

	// Etc are files that the guest finds in /etc instead of the host's, by
	// their names. Nothing of the host's is written, and /etc is read-only.
	// What the host changes there later may or may not show. Empty leaves
	// /etc as it is.
	Etc map[string][]byte

	// Hide are directories of the host that are empty for the guest, by their
	// absolute paths. They must exist.
	Hide []string

	// KeepFDs are descriptors of the caller that the guest gets under the same
	// number, beside 0, 1 and 2. They must have been inherited by the caller
	// without close-on-exec; the guest gets a copy.
	KeepFDs []int

	// The guest's descriptors 0, 1 and 2. Nil means /dev/null.
	Stdin, Stdout, Stderr *os.File

	// Linger keeps the sandbox when the guest has exited, until its last
	// process has.
	Linger bool

	// Log gets what is worth knowing of the sandbox's making. Nil discards it.
	Log *slog.Logger
}

// User is a user and a group, by their numbers.
type User struct {
	UID, GID int
}
