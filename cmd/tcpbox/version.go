package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "development"

// versionText names everything that decides how tcpbox behaves: the embedded
// stack's version is a part of it.
func versionText() string {
	gvisor := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "gvisor.dev/gvisor" {
				gvisor = d.Version
			}
		}
	}
	return fmt.Sprintf("tcpbox %s (gvisor %s, %s, %s/%s)", version, gvisor, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
