package guest

import (
	"errors"
	"io"
	"os"

	"tcpbox/netns"
)

// nsOfInit is a netns.NS whose work init does.
type nsOfInit struct{ s *Sandbox }

func (n nsOfInit) Socket(domain, typ, proto int) (*os.File, error) {
	return n.file(message{Op: opSocket, Ints: []int{domain, typ, proto}}, "socket")
}

func (n nsOfInit) Sysctl(name string) (string, error) {
	m, fds, err := n.s.call(message{Op: opSysctl, Name: name})
	closeAll(fds)
	return m.Value, err
}

func (n nsOfInit) SetSysctl(name, value string) error {
	_, fds, err := n.s.call(message{Op: opSetSysctl, Name: name, Value: value})
	closeAll(fds)
	return err
}

func (n nsOfInit) ProcNet(name string) ([]byte, error) {
	if err := netns.CheckProcNet(name); err != nil {
		return nil, err
	}
	file, err := n.file(message{Op: opProcNet, Name: name}, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// file makes a request that is answered with one descriptor.
func (n nsOfInit) file(m message, name string) (*os.File, error) {
	_, fds, err := n.s.call(m)
	if err == nil && len(fds) != 1 {
		err = &Error{Op: m.Op, Err: errors.New("init sent no descriptor")}
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), name), nil
}

func (nsOfInit) Close() error { return nil }
