// Package tcpbox runs a program in a network sandbox: an isolated Linux network
// namespace whose only way out is a TUN device that ends in an embedded TCP/IP
// stack. Because tcpbox is the other end of every connection, it decides each
// one before it exists, tunes how TCP behaves, and logs every state transition.
//
//	tcpbox.Init() // first in main: Start re-executes the program
//	box, err := tcpbox.Start(ctx, tcpbox.Config{
//		Args: []string{"curl", "http://web/"},
//		Peers: []peer.Spec{{Name: "web", Kind: peer.HTTP, Port: 80}},
//		Stdout: os.Stdout,
//		OnRecords: statelog.NewWriter(os.Stderr, statelog.WriterOptions{}).Write,
//	})
//	status, err := box.Wait()
//
// What runs where:
//
//	this process   stack, policy, resolver, log; host sockets for what is allowed
//	  └─ init      pid 1 of the sandbox: namespaces, TUN, mounts; reaps
//	      └─ guest the program
//
// The module path has no dot: a program imports tcpbox through a replace
// directive in its go.mod.
//
// Begin with Config, then Start.
package tcpbox
