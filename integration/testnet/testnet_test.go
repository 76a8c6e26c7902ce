package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tcpbox/stack/tcpstate"
)

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

func TestRemoteIsReachedFromUplink(t *testing.T) {
	n := New(t)
	for _, addr := range []netip.Addr{Public4, Public6, Remote4, Remote6} {
		l := n.Remote.Listen(t, "tcp", netip.AddrPortFrom(addr, 80))
		dst := netip.MustParseAddrPort(l.Addr().String())
		c, err := n.Uplink.DialTCP(t.Context(), netip.AddrPort{}, dst)
		if err != nil {
			t.Fatalf("dial %v: %v", dst, err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		local := netip.MustParseAddrPort(c.LocalAddr().String())
		if got := n.Uplink.State(t, local, dst); got != tcpstate.Established {
			t.Errorf("%v to %v is %v, want ESTABLISHED", local, dst, got)
		}
		if got := n.Remote.State(t, dst, local); got != tcpstate.Established {
			t.Errorf("%v to %v is %v, want ESTABLISHED", dst, local, got)
		}
		if _, err := fmt.Fprint(s, "hello"); err != nil {
			t.Error(err)
		}
		s.Close()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("read %q, %v, want hello", got, err)
		}
		c.Close()
		Eventually(t, func() error {
			if got := n.Remote.State(t, dst, local); got != tcpstate.TimeWait {
				return fmt.Errorf("the side that closed first is %v, want TIME-WAIT", got)
			}
			return nil
		})
	}
}

func TestRemoteAnswersAsARouter(t *testing.T) {
	n := New(t)
	tests := []struct {
		name string
		dst  netip.Addr
		want error
	}{
		{"a closed port refuses", Public4, unix.ECONNREFUSED},
		{"a closed port refuses", Public6, unix.ECONNREFUSED},
		{"host unreachable", Unreachable4, unix.EHOSTUNREACH},
		{"host unreachable", Unreachable6, unix.EHOSTUNREACH},
		{"prohibited", Prohibited4, unix.EHOSTUNREACH},
		{"prohibited", Prohibited6, unix.EACCES},
		{"network unreachable", NoRoute4, unix.ENETUNREACH},
		{"network unreachable", NoRoute6, unix.ENETUNREACH},
	}
	for _, tt := range tests {
		_, err := n.Uplink.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(tt.dst, 81))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: dial %v = %v, want %v", tt.name, tt.dst, err, tt.want)
		}
	}
	for _, dst := range []netip.Addr{Silent(false, 0), Silent(true, 7)} {
		d, err := n.Uplink.StartDial(netip.AddrPort{}, netip.AddrPortFrom(dst, 81))
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Uplink.Count(t, tcpstate.SynSent); got != 1 {
			t.Errorf("dialling %v: %d sockets in SYN-SENT, want 1", dst, got)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		given := errors.New("given up")
		cancel(given)
		if _, err := d.Wait(ctx); !errors.Is(err, given) {
			t.Errorf("dial %v = %v, want %v", dst, err, given)
		}
	}
}

func TestCaptureSeesWhatLeaves(t *testing.T) {
	n := New(t)
	c := n.Capture(t)
	if got := c.Packets(t); len(got) != 0 {
		t.Fatalf("captured %v before anything was sent", got)
	}
	for _, dst := range []netip.Addr{Public4, Public6} {
		_, err := n.Uplink.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(dst, 81))
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("dial %v: %v", dst, err)
		}
	}
	got := c.Packets(t)
	want := []struct {
		out   bool
		flags uint8
	}{{true, SYN}, {false, RST | ACK}, {true, SYN}, {false, RST | ACK}}
	if len(got) != len(want) {
		t.Fatalf("captured %v, want %d packets", got, len(want))
	}
	for i, w := range want {
		if got[i].Out != w.out || got[i].Flags != w.flags {
			t.Errorf("packet %d is %v, want %+v", i, got[i], w)
		}
	}
	if got[0].Dst != netip.AddrPortFrom(Public4, 81) || got[0].Src.Addr() != Uplink4 {
		t.Errorf("the first packet is %v", got[0])
	}
	if again := c.Packets(t); !slices.Equal(again, got) {
		t.Errorf("captured %v, and then %v", got, again)
	}
}

func TestCommandRunsInTheNamespace(t *testing.T) {
	n := New(t)
	want, err := n.Uplink.Inode()
	if err != nil {
		t.Fatal(err)
	}
	n.SetResolvers(t, Remote4, Remote6)
	for _, cred := range []*syscall.Credential{nil, User} {
		const script = `readlink /proc/self/ns/net; cat /etc/resolv.conf; id -u; id -G; cat <&3`
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, "kept")
		w.Close()
		cmd := n.Uplink.CommandAs(t.Context(), cred, "sh", "-c", script)
		cmd.ExtraFiles = []*os.File{r}
		got := Output(t, cmd)
		r.Close()
		id := "0\n0"
		if cred != nil {
			id = "4242\n4242"
		}
		wantOut := fmt.Sprintf("net:[%d]\nnameserver 10.77.0.1\nnameserver fd00:77::1\n%s\nkept", want, id)
		if got != wantOut {
			t.Errorf("the command saw\n%s\nwant\n%s", got, wantOut)
		}
	}
	if text, err := os.ReadFile("/etc/resolv.conf"); err == nil && strings.Contains(string(text), Remote4.String()) {
		t.Error("the machine's own resolv.conf was changed")
	}
}

func TestOrdinaryUserOpensTUN(t *testing.T) {
	n := New(t)
	cmd := n.Uplink.CommandAs(t.Context(), User, "sh", "-c", "exec 3<>/dev/net/tun && echo open")
	if got := Output(t, cmd); got != "open" {
		t.Errorf("got %q, want open", got)
	}
}

func TestProcessesAreFoundWhereverTheyWent(t *testing.T) {
	n := New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := n.Uplink.Command(ctx, "unshare", "-n", "sh", "-c", "echo here; read x")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatal(err)
	}
	pids, err := n.Processes()
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("processes are %v, %v, want %d among them", pids, err, cmd.Process.Pid)
	}
	other := n.Of(t, cmd.Process.Pid)
	if names, err := other.Devices(); err != nil || !slices.Equal(names, []string{"lo"}) {
		t.Errorf("devices of the new namespace are %v, %v, want lo", names, err)
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("the command ended by itself")
	}
	if err := poll(n.NoProcesses); err != nil {
		t.Error(err)
	}
}

func TestParseProcTCP(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0200000A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  4242        0 1 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000200000A:0051 0000000000000000FFFF00000300000A:1F90 06 00000000:00000000 00:00000000 00000000     0        0 1 1 0
`
	want := []Socket{
		{netip.MustParseAddrPort("10.0.0.2:80"), netip.MustParseAddrPort("0.0.0.0:0"), tcpstate.Listen, 4242},
		{netip.MustParseAddrPort("10.0.0.2:81"), netip.MustParseAddrPort("10.0.0.3:8080"), tcpstate.TimeWait, 0},
	}
	got, err := parseProcTCP(text)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("parsed %v, %v, want %v", got, err, want)
	}
}

func TestServeDNS(t *testing.T) {
	Programs(t, "dig")
	n := New(t)
	d := n.Remote.ServeDNS(t, map[string][]netip.Addr{"a.test.": {Public4, Public6}})
	for _, args := range [][]string{{"+notcp"}, {"+tcp"}} {
		args = append(args, "+short", "a.test", "A", "a.test", "AAAA")
		want := Public4.String() + "\n" + Public6.String()
		if got := Output(t, n.Uplink.Command(t.Context(), "dig", args...)); got != want {
			t.Errorf("dig %q printed %q, want %q", args, got, want)
		}
	}
	if got := d.Queries(); len(got) != 4 || got[0] != "A a.test." {
		t.Errorf("queries were %q", got)
	}
}

func TestCounter(t *testing.T) {
	n := New(t)
	if _, err := n.Uplink.DialTCP(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(Public4, 81)); err == nil {
		t.Fatal("a closed port took a connection")
	}
	if got := n.Uplink.Counter(t, "Tcp", "ActiveOpens"); got != 1 {
		t.Errorf("ActiveOpens is %d, want 1", got)
	}
	if got := n.Uplink.Counter(t, "TcpExt", "TCPSynRetrans"); got != 0 {
		t.Errorf("TCPSynRetrans is %d, want 0", got)
	}
}
