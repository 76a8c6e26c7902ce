package netstack

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a goroutine of a stack outlives the tests: each of them
// has closed its stacks by then.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftovers(); code == 0 && left != "" {
		fmt.Fprintln(os.Stderr, "goroutines that nobody waited for:\n"+left)
		code = 1
	}
	os.Exit(code)
}

// leftovers returns the stacks of goroutines in the code under test, once they
// have had the time to end.
func leftovers() (left string) {
	for range 200 {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = ""
		for _, g := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(g, "netstack.leftovers") {
				continue
			}
			if strings.Contains(g, "gvisor.dev/") || strings.Contains(g, "tcpbox/stack/") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	return left
}
