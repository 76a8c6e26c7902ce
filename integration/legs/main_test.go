// Package legs holds what the log says of the three legs of a connection against
// what other programs see of them.
package legs

import (
	"fmt"
	"os"
	"testing"

	"tcpbox/integration/testnet"
)

func TestMain(m *testing.M) {
	if os.Args[0] == recorderName {
		if err := recordStates(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testnet.Main(m)
}
