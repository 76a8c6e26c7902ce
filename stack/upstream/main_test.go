package upstream

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

// TestMain fails if the tests leave a goroutine or a descriptor behind.
func TestMain(m *testing.M) {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // the runtime's own descriptors exist from here on
	}
	goroutines, files := runtime.NumGoroutine(), openFiles()
	flag.Parse()
	_ = flag.Set("test.parallel", "32") // the parallel ones wait for the kernel's timers
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzer keeps a goroutine of its own
	}
	for deadline := time.Now().Add(10 * time.Second); code == 0; time.Sleep(time.Millisecond) {
		g, f := runtime.NumGoroutine(), openFiles()
		if g <= goroutines && f <= files {
			break
		}
		if time.Now().After(deadline) {
			fmt.Printf("left behind: %d goroutines of %d, %d descriptors of %d\n", g, goroutines, f, files)
			pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
			code = 1
		}
	}
	os.Exit(code)
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
