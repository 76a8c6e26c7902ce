package tcpbox_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"syscall"
	"testing"
	"time"

	"tcpbox"
	"tcpbox/stack/peer"
)

// TestExecIsServed: the stack serves a command as it does the guest.
func TestExecIsServed(t *testing.T) {
	b := box(t, "wait", tcpbox.Config{Peers: []peer.Spec{{Name: "e", Kind: peer.Echo, Port: 7}}})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Exec(t.Context(), tcpbox.ExecConfig{
		Args: []string{self}, Env: []string{guestMode + "=echo e:7"}, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := c.Wait(); err != nil || status.ExitCode() != 0 {
		t.Errorf("the command: %v, %v", status, err)
	}
	c, err = b.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{self}, Env: []string{guestMode + "=wait"}})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if status, err := c.Wait(); !errors.Is(err, tcpbox.ErrEnded) || status.Signal != syscall.SIGKILL {
		t.Errorf("after Close the command: %v, %v", status, err)
	}
	if _, err := b.Exec(t.Context(), tcpbox.ExecConfig{Args: []string{"true"}}); !errors.Is(err, tcpbox.ErrEnded) {
		t.Errorf("after Close Exec() = %v, want ErrEnded", err)
	}
}

func TestLinger(t *testing.T) {
	for what, end := range map[string]func(b *tcpbox.Sandbox) error{
		"it is stopped": func(b *tcpbox.Sandbox) error { return b.Stop(t.Context(), time.Minute) },
		"it is closed":  func(b *tcpbox.Sandbox) error { return b.Close() },
		"all are told":  func(b *tcpbox.Sandbox) error { return b.SignalAll(syscall.SIGTERM) },
	} {
		t.Run(what, func(t *testing.T) {
			requireSandbox(t)
			b, err := tcpbox.Start(t.Context(), tcpbox.Config{
				Args: []string{"sh", "-c", "sleep 1000 & exit 3"}, Linger: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if status, err := b.Wait(); err != nil || status.Code != 3 {
					t.Errorf("Wait() = %v, %v; want 3", status, err)
				}
			}()
			<-b.Lingering()
			if in := b.Inspect(); in.GuestPID != 0 || in.InitPID == 0 {
				t.Errorf("Inspect() shows init %d and guest %d", in.InitPID, in.GuestPID)
			}
			if in := b.Inspect(); in.Resolvers == nil || in.Ports == nil || in.Peers == nil || in.Knobs == nil {
				t.Errorf("Inspect() has a nil list, which is null in JSON: %+v", in)
			}
			if err := end(b); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
}

// A second command in a sandbox, beside its guest.
func ExampleSandbox_Exec() {
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{
		Args: []string{"sleep", "1000"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer box.Close()
	cmd, err := box.Exec(context.Background(), tcpbox.ExecConfig{
		Args: []string{"sh", "-c", "echo this is inside; exit 3"}, Stdout: os.Stdout,
	})
	if err != nil {
		log.Fatal(err)
	}
	status, err := cmd.Wait()
	fmt.Println(status.ExitCode(), err)
	// Output:
	// this is inside
	// 3 <nil>
}
