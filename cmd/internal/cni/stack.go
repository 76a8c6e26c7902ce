package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/tun"
)

// Init must be called first in main, and in TestMain: ADD executes the program
// again to become the stack process, and Init is where that begins. In every other
// process it does nothing.
func Init() {
	if len(os.Args) != 2 || os.Args[0] != processName {
		return
	}
	os.Exit(runStack())
}

// runStack is the stack process, from its order to the end of the container.
func runStack() int {
	log := slog.New(slog.NewJSONHandler(&bounded{w: os.Stderr, left: maxLog}, nil))
	ready := os.NewFile(fdReady, "ready")
	unix.CloseOnExec(fdReady)
	if err := serveOrder(log, ready); err != nil {
		log.Error("the sandbox has ended", "err", err)
		tell(ready, answer{Error: err.Error()})
		return 1
	}
	return 0
}

func tell(ready *os.File, a answer) {
	_ = json.NewEncoder(ready).Encode(a) // if it is closed, or nobody reads any more, there is nobody to tell
	ready.Close()
}

func serveOrder(log *slog.Logger, ready *os.File) error {
	var o order
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxPolicy*2)).Decode(&o); err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	os.Stdin.Close()
	cfg, err := o.config()
	if err != nil {
		return err
	}
	cfg.Log = log
	server, err := control.Reserve(o.Sandbox, log)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := server.SetAliases(o.Aliases...); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	box, err := tcpbox.Serve(context.Background(), cfg)
	if err != nil {
		return err
	}
	if err := server.Serve(box); err != nil {
		box.Close()
		return err
	}
	go func() {
		for range ended {
			_ = box.Signal(syscall.SIGTERM) // it takes it
		}
	}()
	tell(ready, answer{})
	debug.FreeOSMemory() // what starting took; there are many of these processes
	_, err = box.Wait()
	return err
}

// config is what the order comes to. The devices are this process's.
func (o *order) config() (cfg tcpbox.ServeConfig, err error) {
	cfg.Name, cfg.NetNS, cfg.Addresses = o.Sandbox, o.NetNS, o.Addresses
	cfg.LogRoom = logRoom
	cfg.NoTrace = true // one for each container would be called for the sockets of all
	settings := tcpbox.Settings{Policy: policy.Policy{Net: policy.NetAll}}
	if o.Policy != "" {
		d, err := document.Parse("policy", []byte(o.Policy))
		if err != nil {
			return cfg, err
		}
		settings = control.SettingsOf(d)
		if d.Net == nil {
			settings.Policy.Net = policy.NetAll // there are no rules
		}
	}
	cfg.Policy, cfg.Knobs, cfg.Sysctls, cfg.Limits = settings.Policy, settings.Knobs, settings.Sysctls, settings.Limits
	cfg.Faults = settings.Faults
	for _, fd := range []int{fdContainer, fdHost} {
		unix.CloseOnExec(fd)
	}
	if cfg.Container, err = tun.New(fdContainer, "", o.MTU); err != nil {
		return cfg, err
	}
	cfg.Host, err = tun.New(fdHost, "", o.MTU)
	return cfg, err
}

// logRoom is how many records may wait: most containers do little, and the room is
// most of what an idle process takes.
const logRoom = 2048

// maxLog is how much the log of a stack process may grow, in bytes.
const maxLog = 1 << 20

// bounded is a file that takes so many bytes and no more.
type bounded struct {
	mu   sync.Mutex
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < len(p) {
		b.left = 0
		return len(p), nil
	}
	b.left -= len(p)
	return b.w.Write(p)
}
