package testnet

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"tcpbox/stack/tcpstate"
)

// Socket is one TCP socket of a namespace, whoever owns it.
type Socket struct {
	Local, Remote netip.AddrPort
	State         tcpstate.State
	UID           int
}

// kernelStates are the numbers of include/net/tcp_states.h. A request socket,
// NEW_SYN_RECV (12), is shown by the kernel as SYN_RECV.
var kernelStates = [...]tcpstate.State{
	1: tcpstate.Established, 2: tcpstate.SynSent, 3: tcpstate.SynReceived,
	4: tcpstate.FinWait1, 5: tcpstate.FinWait2, 6: tcpstate.TimeWait,
	7: tcpstate.Closed, 8: tcpstate.CloseWait, 9: tcpstate.LastAck,
	10: tcpstate.Listen, 11: tcpstate.Closing, 12: tcpstate.SynReceived,
}

// Sockets returns the namespace's TCP sockets as /proc/net/tcp and tcp6 show
// them. IPv4 sockets of both files have plain IPv4 addresses.
func (ns *Namespace) Sockets(t testing.TB) []Socket {
	t.Helper()
	var all []Socket
	err := ns.Do(func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			socks, err := parseProcTCP(string(text))
			if err != nil {
				return err
			}
			all = append(all, socks...)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("testnet: sockets of %s: %v", ns.name, err)
	}
	return all
}

// State returns the state of the socket from local to remote, Closed if there
// is none. The zero remote stands for any.
func (ns *Namespace) State(t testing.TB, local, remote netip.AddrPort) tcpstate.State {
	t.Helper()
	for _, s := range ns.Sockets(t) {
		if s.Local == local && (s.Remote == remote || !remote.IsValid()) {
			return s.State
		}
	}
	return tcpstate.Closed
}

// Count returns how many TCP sockets of the namespace are in a state.
func (ns *Namespace) Count(t testing.TB, state tcpstate.State) int {
	t.Helper()
	n := 0
	for _, s := range ns.Sockets(t) {
		if s.State == state {
			n++
		}
	}
	return n
}

// parseProcTCP reads the table that Documentation/networking/proc_net_tcp.rst
// of the kernel describes.
func parseProcTCP(text string) ([]Socket, error) {
	var socks []Socket
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i == 0 {
			continue // the heading
		}
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("testnet: /proc/net/tcp: %d fields in %q", len(f), line)
		}
		local, err1 := parseProcAddr(f[1])
		remote, err2 := parseProcAddr(f[2])
		state, err3 := strconv.ParseUint(f[3], 16, 8)
		uid, err4 := strconv.Atoi(f[7])
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return nil, err
		}
		s := Socket{Local: local, Remote: remote, UID: uid}
		if state < uint64(len(kernelStates)) {
			s.State = kernelStates[state]
		}
		socks = append(socks, s)
	}
	return socks, nil
}

// parseProcAddr reads "0100007F:0050": 32-bit words of the address in the
// machine's byte order, and the port.
func parseProcAddr(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("testnet: /proc/net/tcp: address %q", text)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("testnet: /proc/net/tcp: address %q", text)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), nil
}
