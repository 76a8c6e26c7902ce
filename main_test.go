package tcpbox_test

import (
	"os"
	"testing"

	"tcpbox"
)

// guestMode is the variable by which a test makes this binary play a guest.
const guestMode = "TCPBOX_TEST_GUEST"

func TestMain(m *testing.M) {
	tcpbox.Init()
	if mode := os.Getenv(guestMode); mode != "" {
		os.Exit(playGuest(mode))
	}
	os.Exit(m.Run())
}
