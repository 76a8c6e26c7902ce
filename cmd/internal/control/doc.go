// Package control lets one tcpbox process reach a sandbox that another one
// runs: HTTP with JSON over a Unix socket in a directory that only its owner
// can enter. docs/control-api.md has the requests.
//
// A process that runs a sandbox begins with Serve; one that wants to reach
// sandboxes begins with List or Connect.
//
//	$RUNTIME/NAME/lock   locked as long as the process lives
//	$RUNTIME/NAME/sock   the socket
//
// The lock says whether a sandbox is alive: the kernel lets go of it however
// the process ends. What a killed process has left is removed by whoever comes
// next.
package control
