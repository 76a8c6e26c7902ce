package bench

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// terminal reports whether somebody watches standard error.
var terminal = sync.OnceValue(func() bool {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return err == nil
})

// progress shows on a terminal what is being done; nothing takes it away.
func progress(what string) {
	if *full && terminal() {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what)
	}
}
