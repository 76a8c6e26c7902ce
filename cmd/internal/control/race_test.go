package control

import (
	"sync"
	"testing"
)

// Who lists the sandboxes is never taken for one of them, and removes nothing
// that is another's.
func TestListsWhileSandboxesBeginAndEnd(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var lists sync.WaitGroup
	defer lists.Wait()
	defer close(stop)
	for range 2 {
		lists.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := live(dir); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 500 {
		e, err := claim(dir, "box")
		if err != nil {
			t.Fatal(err)
		}
		if !e.isThere() {
			t.Fatal("the place of a live sandbox was removed")
		}
		if err := e.remove(); err != nil {
			t.Fatal(err)
		}
	}
}
