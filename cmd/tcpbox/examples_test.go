package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestExamplesRun runs the scripts of examples, which check themselves.
func TestExamplesRun(t *testing.T) {
	needSandbox(t)
	scripts, err := filepath.Glob("../../examples/*.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("found no examples: %v", err)
	}
	for _, name := range scripts {
		t.Run(filepath.Base(name), func(t *testing.T) {
			needProgram(t, "bash")
			cmd := exec.CommandContext(t.Context(), "bash", name)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v; it printed:\n%s", name, err, out)
			}
		})
	}
}
