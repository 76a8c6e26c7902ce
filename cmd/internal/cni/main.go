package cni

import (
	"io/fs"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

// Main is the plugin: it reads the environment and standard input as the
// specification has it, and does not return but in success.
func Main(about string) {
	skel.PluginMainFuncs(funcs, version.All, about)
}

var funcs = skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status}

// An interface is waited for this often, and so long each time.
const (
	goneTries = 200
	gonePause = 10 * time.Millisecond
)

func pause() { time.Sleep(gonePause) }

// inode is that of a file of the kernel's.
func inode(info fs.FileInfo) uint64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Ino
}
