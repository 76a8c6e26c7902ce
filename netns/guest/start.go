package guest

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tcpbox/netns/confine"
)

// start makes the guest and returns its process descriptor once the program
// has been executed.
func (s *initState) start() (pidfd int, err error) {
	s.mu.Lock()
	started := s.pid != 0
	s.mu.Unlock()
	if started {
		return -1, &Error{Op: "start", Err: fmt.Errorf("the guest has been started already")}
	}
	c := &s.config
	st := s.newStage(c.program)
	for i, to := range c.Keep {
		from, err := above(firstKept+i, c.Keep)
		if err != nil {
			return -1, &Error{Op: "pass descriptors on", Err: err, Hint: resourceHint(err)}
		}
		st.moves = append(st.moves, move{int32(from), int32(to)})
	}
	pid, pidfd, err := s.begin(st, c.program, c.Keep, func(int) {})
	if err != nil {
		if pid > 0 {
			_, _ = unix.Wait4(pid, nil, 0, nil) // nobody reaps yet
		}
		return -1, err
	}
	s.mu.Lock()
	s.pid = pid
	early := s.early
	s.mu.Unlock()
	for _, sig := range early {
		unix.Kill(pid, sig)
	}
	s.releaseFiles()
	return pidfd, nil
}

// begin makes a process of a stage, and returns once its program has been
// executed. born is told the process's id while nobody can reap it. A pid
// beside an error is that of a process that dies.
func (s *initState) begin(st *stage, p program, keep []int, born func(pid int)) (pid, pidfd int, err error) {
	var syncPipe, reportPipe [2]int
	for _, p := range []*[2]int{&syncPipe, &reportPipe} {
		if err := highPipe(p, keep); err != nil {
			return 0, -1, &Error{Op: "start", Err: err, Hint: resourceHint(err)}
		}
		defer func() { unix.Close(p[0]) }()
		defer func() { unix.Close(p[1]) }()
	}
	st.sync, st.report = int32(syncPipe[0]), int32(reportPipe[1])
	uidMap, gidMap, err := s.idMaps()
	if err != nil {
		return 0, -1, err
	}
	fail := func(err error) (int, int, error) {
		if pidfd >= 0 {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			unix.Close(pidfd)
		}
		return pid, -1, err
	}
	// Nobody else's process must come to have the id while the maps are
	// written: as long as s.mu is held, reap leaves it alone.
	s.mu.Lock()
	pid, pidfd, errno := st.fork()
	if errno != 0 {
		err = &Error{Op: "create the guest's user namespace", Err: errno, Hint: cloneHint(errno)}
	} else {
		born(pid)
		err = writeMaps(pid, uidMap, gidMap)
	}
	s.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	if _, err := unix.Write(syncPipe[1], []byte{1}); err != nil {
		return fail(&Error{Op: "start", Err: err})
	}
	unix.Close(reportPipe[1])
	reportPipe[1] = -1
	err = readReport(reportPipe[0], p)
	runtime.KeepAlive(st)
	if err != nil {
		return fail(err)
	}
	return pid, pidfd, nil
}

// releaseFiles lets go of the guest's descriptors, so that their other ends
// see the guest close them.
func (s *initState) releaseFiles() {
	if null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(null, fd, unix.O_CLOEXEC)
		}
		unix.Close(null)
	}
	for i := range s.config.Keep {
		unix.Close(firstKept + i)
	}
}

// highPipe makes a pipe whose descriptors are above all that the guest keeps.
func highPipe(p *[2]int, keep []int) error {
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	for i, fd := range p {
		high, err := above(fd, keep)
		if err != nil {
			return err
		}
		unix.Close(fd)
		p[i] = high
	}
	return nil
}

func above(fd int, keep []int) (int, error) {
	least := 3
	for _, k := range keep {
		least = max(least, k+1)
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, least)
}

// newStage lays out everything that a stage needs, but descriptors.
func (s *initState) newStage(p program) *stage {
	st := &stage{plan: confine.Guest(), files: s.files}
	for _, path := range candidates(string(p.Args[0]), p.Env) {
		st.candidates = append(st.candidates, cString([]byte(path)))
	}
	st.argv, st.envv = cStrings(p.Args), cStrings(p.Env)
	st.dir = cString(p.Dir)
	if u := s.config.User; u != nil && s.config.Privileged {
		st.setIDs, st.uid, st.gid = true, uintptr(u.UID), uintptr(u.GID)
	}
	return st
}

// cString ends s with a zero byte; it has none inside.
func cString(s []byte) *byte {
	return unsafe.SliceData(append(append(make([]byte, 0, len(s)+1), s...), 0))
}

func cStrings(list [][]byte) []*byte {
	out := make([]*byte, 0, len(list)+1)
	for _, s := range list {
		out = append(out, cString(s))
	}
	return append(out, nil)
}

// defaultPath is where programs are looked for without a PATH.
const defaultPath = "/usr/local/bin:/usr/bin:/bin"

// candidates are the paths at which a shell would look for the program.
func candidates(name string, env [][]byte) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	path := defaultPath
	for _, v := range env {
		if value, ok := strings.CutPrefix(string(v), "PATH="); ok {
			path = value
			break
		}
	}
	var paths []string
	for _, dir := range strings.Split(path, ":") {
		if dir == "" {
			dir = "." // POSIX: an empty prefix is the current directory
		}
		paths = append(paths, dir+"/"+name)
	}
	return paths
}

// idMaps are the contents of the guest's uid_map and gid_map. With an outer
// user namespace there is one id to be had. Without one all ids of init are
// passed on as they are.
func (s *initState) idMaps() (uid, gid string, err error) {
	c := &s.config
	if !c.Privileged {
		u, g := c.UID, c.GID
		if c.Root {
			u, g = 0, 0
		}
		return fmt.Sprintf("%d %d 1", u, c.UID), fmt.Sprintf("%d %d 1", g, c.GID), nil
	}
	if uid, err = identity("/proc/self/uid_map"); err == nil {
		gid, err = identity("/proc/self/gid_map")
	}
	if err != nil {
		err = &Error{Op: "read the id maps", Err: err}
	}
	return uid, gid, err
}

// identity reads a map and returns the one that maps each of its inner ids to
// itself.
func identity(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		var inner, outer, count uint64
		if _, err := fmt.Sscan(line, &inner, &outer, &count); err != nil {
			return "", fmt.Errorf("%q: %w", line, err)
		}
		fmt.Fprintf(&b, "%d %d %d\n", inner, inner, count)
	}
	return b.String(), nil
}

func writeMaps(pid int, uid, gid string) error {
	for _, m := range [][2]string{{"gid_map", gid}, {"uid_map", uid}} {
		path := fmt.Sprintf("/proc/%d/%s", pid, m[0])
		if err := writeOnce(path, m[1]); err != nil {
			return &Error{Op: "write the guest's " + m[0], Err: err}
		}
	}
	return nil
}

// writeOnce writes all of data in one call, as the maps demand.
func writeOnce(path, data string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(data))
	return err
}

// readReport waits until the program is executed, or the stage has failed.
func readReport(fd int, p program) error {
	var f failure
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&f)), unsafe.Sizeof(f))
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return &Error{Op: "start", Err: err}
		case n == 0:
			return nil // closed by exec, or by a death that reap will see
		case n != len(buf):
			return &Error{Op: "start", Err: io.ErrUnexpectedEOF}
		}
		break
	}
	errno := syscall.Errno(f.errno)
	if f.step == stageExec {
		return &ExecError{Name: string(p.Args[0]), Err: errno}
	}
	e := &Error{Op: stageStep(f.step), Err: errno, Hint: resourceHint(errno)}
	if f.step == stageDir {
		e.Op += fmt.Sprintf(" %q", p.Dir)
		e.Hint = "the directory does not exist in the sandbox, or the guest may not enter it; name another with --workdir"
	}
	return e
}
