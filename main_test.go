package tcpbox_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"tcpbox"
	"tcpbox/integration/testnet"
)

// guestMode is the variable by which a test makes this binary play a guest.
const guestMode = "TCPBOX_TEST_GUEST"

func TestMain(m *testing.M) {
	tcpbox.Init()
	testnet.Init()
	if mode := os.Getenv(guestMode); mode != "" {
		os.Exit(playGuest(mode))
	}
	flag.Parse()
	if cannot := noSandbox(); cannot != nil && os.Getenv("CI") != "true" && flag.Lookup("test.skip").Value.String() == "" {
		fmt.Fprintln(os.Stderr, "the examples are skipped, for no sandbox can be made here:", cannot)
		_ = flag.Set("test.skip", "^Example")
	}
	os.Exit(m.Run())
}
