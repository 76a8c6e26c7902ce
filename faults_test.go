package tcpbox_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"tcpbox"
	"tcpbox/policy"
)

// TestFaultsOfAConfig: what cannot be carried out is found before anything is
// started.
func TestFaultsOfAConfig(t *testing.T) {
	loss, err := policy.ParseFault("loss 5%")
	if err != nil {
		t.Fatal(err)
	}
	cfg := tcpbox.Config{Args: []string{"true"}, Faults: slices.Repeat([]policy.Fault{loss}, 64)}
	if err := cfg.Check(); err != nil {
		t.Errorf("64 faults: %v", err)
	}
	cfg.Faults = append(cfg.Faults, loss)
	var wrong *tcpbox.ConfigError
	if err := cfg.Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "65 faults are more than the 64") {
		t.Errorf("65 faults: %v", err)
	}
	cfg.Faults = []policy.Fault{{Do: policy.FaultRate}}
	if err := cfg.Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), `"rate" is not a fault`) {
		t.Errorf("a rate without a rate: %v", err)
	}
}
