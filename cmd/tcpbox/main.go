// Command tcpbox runs programs in a network sandbox: their only network is an
// embedded TCP/IP stack, which decides each connection, tunes TCP and logs
// every state transition.
package main

import (
	"os"

	"tcpbox"
)

func main() {
	tcpbox.Init() // in a sandbox's first process this does not return
	os.Exit(Main(os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
