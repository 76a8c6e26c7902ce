// Command recorder runs a program without any network and prints what it tried
// to reach: an egress recorder that needs no proxy and no root.
//
//	recorder COMMAND [ARGUMENT…]
//
// It is also an example of a program that imports package tcpbox from a module
// of its own; examples/README.md has the go.mod.
package main

import (
	"context"
	"fmt"
	"os"

	"tcpbox"
	"tcpbox/policy"
)

func main() {
	tcpbox.Init() // first: Start executes this program again
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: recorder COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	box, err := tcpbox.Start(context.Background(), tcpbox.Config{
		Args:  os.Args[1:],
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		ForwardSignals: true,
		Policy:         policy.Policy{Net: policy.NetNone},
		OnRefused: func(r tcpbox.Refusal) {
			fmt.Fprintf(os.Stderr, "recorder: %v %v\n", r.Request.Proto, r.Request.Dst)
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(125)
	}
	status, err := box.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "recorder:", err)
		os.Exit(125)
	}
	os.Exit(status.ExitCode())
}
