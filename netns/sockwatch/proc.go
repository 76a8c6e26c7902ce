package sockwatch

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A ProcTree finds owners among a process and all that descend from it, as init
// of a sandbox has them: who loses its parent becomes a child of init's.
type ProcTree struct {
	Root int // the process, which itself owns nothing
}

// Owners implements Processes.
func (p ProcTree) Owners(inodes map[uint32]struct{}) map[uint32]Process {
	s := search{inodes: inodes, found: make(map[uint32]Process)}
	level := children(p.Root)
	for len(level) > 0 && !s.over() {
		var below []int
		for _, pid := range level {
			s.look(pid)
			below = append(below, children(pid)...)
		}
		level = below
	}
	return s.found
}

// children are a process's, by all of its threads.
func children(pid int) (all []int) {
	base := fmt.Sprintf("/proc/%d/task/", pid)
	dir, err := os.Open(base)
	if err != nil {
		return nil
	}
	defer dir.Close()
	threads, _ := dir.Readdirnames(-1)
	for _, thread := range threads {
		list, err := os.ReadFile(base + thread + "/children")
		if err != nil {
			continue // it has ended
		}
		for _, word := range strings.Fields(string(list)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// A ProcNetNS finds owners among the processes of a network namespace: those
// that this process may look at.
type ProcNetNS struct {
	Inode uint64 // of the namespace, as in /proc/PID/ns/net
}

// Owners implements Processes.
func (p ProcNetNS) Owners(inodes map[uint32]struct{}) map[uint32]Process {
	s := search{inodes: inodes, found: make(map[uint32]Process)}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+name+"/ns/net", &st) == nil && st.Ino == p.Inode {
			s.look(pid)
		}
		if s.over() {
			break
		}
	}
	return s.found
}

// search is one search for owners.
type search struct {
	inodes map[uint32]struct{}
	found  map[uint32]Process
	looked int
}

// searchMost bounds a search, in processes: a guest may have many.
const searchMost = 4096

// over reports whether all are found, or it goes on for too long.
func (s *search) over() bool { return len(s.found) == len(s.inodes) || s.looked >= searchMost }

// look goes through the descriptors of a process.
func (s *search) look(pid int) {
	s.looked++
	base := fmt.Sprintf("/proc/%d/fd/", pid)
	dir, err := os.Open(base)
	if err != nil {
		return // it has ended, or is not ours to look at
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var p Process
	buf := make([]byte, 64)
	for _, name := range names {
		n, err := unix.Readlink(base+name, buf)
		if err != nil {
			continue
		}
		inode, ok := socketInode(string(buf[:n]))
		if _, wanted := s.inodes[inode]; !ok || !wanted {
			continue
		}
		if _, known := s.found[inode]; known {
			continue // a parent's, who left it to its children
		}
		if p.PID == 0 {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err != nil {
				return
			}
			p = Process{PID: pid, Command: strings.TrimSuffix(string(comm), "\n")}
		}
		s.found[inode] = p
	}
}

// socketInode reads what a descriptor of a socket is a link to: "socket:[123]".
func socketInode(target string) (uint32, bool) {
	number, ok := strings.CutPrefix(target, "socket:[")
	number, closed := strings.CutSuffix(number, "]")
	if !ok || !closed {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), err == nil
}
