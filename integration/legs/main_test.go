// Package legs holds what the log says of the three legs of a connection against
// what other programs see of them.
package legs

import (
	"testing"

	"tcpbox/integration/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }
