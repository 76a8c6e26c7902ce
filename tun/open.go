package tun

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Open asks the kernel for. Whoever has to open a device by raw system
// calls, as a child between fork and exec must, asks for the same: New refuses
// anything else.
const (
	// Path is the driver's control device.
	Path = "/dev/net/tun"

	// Flags goes with the name into TUNSETIFF: a layer 3 device without the
	// packet information header, with a virtio header before each packet, and
	// newly made, never somebody's existing one.
	Flags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL

	// Offloads goes into TUNSETOFFLOAD (linux/if_tun.h): TUN_F_CSUM,
	// TUN_F_TSO4 and TUN_F_TSO6. UDP segmentation is left out: without it the
	// kernel splits such packets itself.
	Offloads = 0x01 | 0x02 | 0x04

	// VnetHdrLen goes into TUNSETVNETHDRSZ: the length in bytes of the virtio
	// header before each packet.
	VnetHdrLen = 10
)

// DefaultName is the interface's name where Options name none.
const DefaultName = "tcpbox0"

// Options say which device Open makes.
type Options struct {
	// Name is the interface's name, at most 15 bytes; a "%d" in it lets the
	// kernel choose a number. Empty means DefaultName.
	Name string

	// Persist lets the device outlive its descriptor, until its namespace
	// ends. It saves the 25 to 30 ms that the kernel takes to unregister a
	// device when its last descriptor is closed. Use it only in a namespace
	// that ends with its owner.
	Persist bool
}

// Open makes a TUN device in the network namespace of the calling thread and
// returns its descriptor, which is non-blocking and close-on-exec, and its
// name. The interface is down and has no address yet.
//
// The descriptor is the caller's: it goes to New, here or in the process it is
// sent to, or is closed. While it is open it keeps alive the namespace that
// the device was made in. Errors match *OpenError.
func Open(o Options) (fd int, name string, err error) {
	return openAt(Path, o)
}

func openAt(path string, o Options) (fd int, name string, err error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := checkName(o.Name); err != nil {
		return -1, "", &OpenError{Op: "name", Name: o.Name, Err: err}
	}
	fail := func(op string, err error) (int, string, error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, "", &OpenError{Op: op, Name: o.Name, Err: err}
	}
	fd, err = openRetry(path)
	if err != nil {
		return fail("open", err)
	}
	// TUNSETIFF must come before the descriptor meets any poller: one that is
	// registered unattached is only ever reported as being in error.
	ifr, err := unix.NewIfreq(o.Name)
	if err != nil {
		return fail("TUNSETIFF", err)
	}
	ifr.SetUint16(Flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fail("TUNSETIFF", err)
	}
	size := int32(VnetHdrLen)
	if err := ioctl(fd, unix.TUNSETVNETHDRSZ, uintptr(unsafe.Pointer(&size))); err != nil {
		return fail("TUNSETVNETHDRSZ", err)
	}
	if err := ioctl(fd, unix.TUNSETOFFLOAD, Offloads); err != nil {
		return fail("TUNSETOFFLOAD", err)
	}
	if o.Persist {
		if err := ioctl(fd, unix.TUNSETPERSIST, 1); err != nil {
			return fail("TUNSETPERSIST", err)
		}
	}
	return fd, ifr.Name(), nil
}

func openRetry(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func ioctl(fd int, req uint, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg); errno != 0 {
		return errno
	}
	return nil
}

// errName is the cause of an OpenError for a name that no interface can have.
var errName = errors.New("not a name for an interface")

// checkName holds to the kernel's dev_valid_name, and leaves out "%" but for
// one "%d".
func checkName(name string) error {
	rest := strings.Replace(name, "%d", "", 1)
	if len(name) >= unix.IFNAMSIZ || name == "." || name == ".." || strings.ContainsRune(rest, '%') {
		return errName
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == '/' || c == ':' || c >= 0x7f {
			return errName
		}
	}
	return nil
}

// OpenError says at which step a device could not be made.
type OpenError struct {
	Op   string // "name", "open", or the name of the ioctl that failed
	Name string // of the interface
	Err  error  // a unix.Errno for all but "name"
}

func (e *OpenError) Error() string {
	switch e.Op {
	case "open":
		return fmt.Sprintf("tun: open %s: %v", Path, e.Err)
	case "name":
		return fmt.Sprintf("tun: open %q: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("tun: open %s: %s: %v", e.Name, e.Op, e.Err)
}

func (e *OpenError) Unwrap() error { return e.Err }

// Hint returns the next step for the person in front of the machine, or
// nothing.
func (e *OpenError) Hint() string {
	is := func(errs ...error) bool {
		for _, err := range errs {
			if errors.Is(e.Err, err) {
				return true
			}
		}
		return false
	}
	switch {
	case e.Op == "name":
		return "an interface's name has 1 to 15 visible ASCII characters, none of them a slash, a colon or a percent sign"
	case e.Op == "open" && is(unix.ENOENT):
		return "the tun driver is not loaded: run \"sudo modprobe tun\"; a container needs the device passed in (--device " + Path + ")"
	case e.Op == "open" && is(unix.ENODEV, unix.ENXIO):
		return "the kernel has no tun driver behind " + Path + ": run \"sudo modprobe tun\""
	case e.Op == "open" && is(unix.EACCES):
		return "open the device to users with \"sudo chmod 0666 " + Path + "\", or run as root"
	case e.Op == "open" && is(unix.EPERM):
		return "a container must be allowed the device (--device " + Path + "); elsewhere run as root"
	case e.Op == "open" && is(unix.EMFILE, unix.ENFILE):
		return "too many open files: raise the limit with \"ulimit -n\""
	case e.Op == "TUNSETIFF" && is(unix.EPERM, unix.EACCES):
		return "making an interface needs CAP_NET_ADMIN over the network namespace: run as root, or in a user namespace that owns it"
	case e.Op == "TUNSETIFF" && is(unix.EBUSY, unix.EEXIST):
		return "the namespace has an interface of that name already: choose another, or delete it with \"ip link delete " + e.Name + "\""
	case e.Op == "TUNSETIFF" && is(unix.ENOTTY):
		return Path + " is something else than the tun device: make it anew, as with \"sudo rm " + Path + " && sudo mknod -m 0666 " + Path + " c 10 200\""
	case is(unix.EINVAL, unix.ENOTTY):
		return "the kernel's tun driver does not offer a virtio header with TCP offloads, which tcpbox needs"
	}
	return ""
}
