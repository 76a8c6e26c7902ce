// Command tcpbox-cni is the CNI plugin of tcpbox: it gives a container a network
// whose other end is an embedded TCP/IP stack. See docs/cni.md.
package main

import (
	"fmt"

	"tcpbox/cmd/internal/cni"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "development"

func main() {
	cni.Init()
	cni.Main(fmt.Sprintf("CNI plugin tcpbox-cni %s", version))
}
