package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Inside returns a descendant of the process pid that is in another network
// namespace than n's uplink, as in a sandbox.
func (n *Net) Inside(pid int) (int, error) {
	uplink, err := n.Uplink.Inode()
	if err != nil {
		return 0, err
	}
	outside := fmt.Sprintf("net:[%d]", uplink)
	children, err := Children()
	if err != nil {
		return 0, err
	}
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p)); err == nil && link != outside {
			return p, nil
		}
		queue = append(queue, children[p]...)
	}
	return 0, fmt.Errorf("process %d has no descendant in another network namespace", pid)
}

// Children returns the children of every process of the machine.
func Children() (map[int][]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, err1 := strconv.Atoi(strings.Split(path, "/")[2])
		// "pid (name) state ppid …"; the name may hold anything.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) < 2 {
			continue
		}
		ppid, err2 := strconv.Atoi(f[1])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		children[ppid] = append(children[ppid], pid)
	}
	return children, nil
}

// Buffer is a bytes.Buffer for a process that writes while a test reads.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
