package netstack

import (
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// provedVersion is the gVisor that the tracker's proof was made for. Whoever
// changes it reads the call sites below again, and what stands between them.
const provedVersion = "v0.0.0-20260905035102-160fafc42237"

// stateWrites are all places where that gVisor writes the state of a TCP
// endpoint, with what makes the tracker look before the next write (see
// tracker).
var stateWrites = []string{
	// Begin of an active open: the SYN leaves.
	"endpoint.go (*Endpoint).connect StateConnecting",
	"endpoint.go (*Endpoint).connect oldState",
	"endpoint.go (*Endpoint).connect StateEstablished", // restored stacks only
	"endpoint.go (*Endpoint).connect StateSynSent",
	// Begin of a passive open, and a simultaneous one: the SYN-ACK leaves.
	"accept.go (*listenContext).createConnectingEndpoint StateConnecting",
	"connect.go (*handshake).resetToSynRcvd StateSynRecv",
	"connect.go (*handshake).synSentState StateSynRecv",
	// The handshake ends: writers are notified.
	"connect.go (*handshake).transitionToStateEstablishedLocked StateEstablished",
	"connect.go (*Endpoint).handshakeFailed StateError",
	"endpoint.go (*Endpoint).onICMPError StateError",
	// Our FIN: writers are notified.
	"endpoint.go (*Endpoint).shutdownLocked StateLastAck",
	"endpoint.go (*Endpoint).shutdownLocked StateFinWait1",
	// The guest's segments: the probe runs behind each. When a gap is filled in
	// front of a queued FIN, readers are notified between two of these.
	"rcv.go (*receiver).consumeSegment StateCloseWait",
	"rcv.go (*receiver).consumeSegment StateTimeWait",
	"rcv.go (*receiver).consumeSegment StateClosing",
	"rcv.go (*receiver).consumeSegment StateTimeWait",
	"rcv.go (*receiver).consumeSegment StateFinWait2",
	"rcv.go (*receiver).consumeSegment StateTimeWait",
	// Ends: everybody is notified, or our own call returns.
	"connect.go (*Endpoint).resetConnectionLocked StateError",
	"connect.go (*Endpoint).transitionToStateCloseLocked StateClose",
	"connect.go timerHandler StateError",
	"endpoint.go (*Endpoint).closeNoShutdownLocked StateClose",
	// Sockets without a connection.
	"endpoint.go (*Endpoint).listen StateListen",
	"endpoint.go (*Endpoint).bindLocked StateBound",
	// Restoring a saved stack, which tcpbox never does.
	"endpoint_state.go (*Endpoint).Restore StateBound",
	"endpoint_state.go (*Endpoint).Restore StateListen",
	"endpoint_state.go (*Endpoint).Restore epState",
}

// gvisorModule returns where the source of gVisor is, and its version.
func gvisorModule(t *testing.T) (dir, version string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}\t{{.Version}}", "gvisor.dev/gvisor").Output()
	if err != nil {
		t.Skip("the source of gVisor is not at hand:", err)
	}
	dir, version, _ = strings.Cut(strings.TrimSpace(string(out)), "\t")
	return dir, version
}

// TestProofHolds: the places that write an endpoint's state are the ones that
// the proof was made for.
func TestProofHolds(t *testing.T) {
	dir, version := gvisorModule(t)
	if version != provedVersion {
		t.Errorf("go.mod has gVisor %s, the proof was made for %s", version, provedVersion)
	}
	files, err := filepath.Glob(filepath.Join(dir, "pkg/tcpip/transport/tcp/*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal("no source in", dir, err)
	}
	var got []string
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "setEndpointState" {
						got = append(got, filepath.Base(name)+" "+funcName(fset, fn)+" "+sprint(fset, call.Args[0]))
					}
				}
				return true
			})
		}
		// The state itself is written by setEndpointState alone, but for
		// restoring a saved stack.
		if filepath.Base(name) == "endpoint_state.go" {
			continue
		}
		src := sprint(fset, f)
		for _, w := range []string{"e.state.Store(", "e.state.CompareAndSwap(", "e.state.Add("} {
			if strings.Contains(src, w) {
				t.Errorf("%s writes the state with %s", filepath.Base(name), w)
			}
		}
	}
	want := slices.Clone(stateWrites)
	slices.Sort(want)
	slices.Sort(got)
	for _, w := range difference(got, want) {
		t.Errorf("not covered by the proof: %s", w)
	}
	for _, w := range difference(want, got) {
		t.Errorf("assumed by the proof and not there: %s", w)
	}
}

// difference returns what a has more of than b; both are sorted.
func difference(a, b []string) (more []string) {
	for _, s := range a {
		if i, ok := slices.BinarySearch(b, s); ok {
			b = slices.Delete(slices.Clone(b), i, i+1)
			continue
		}
		more = append(more, s)
	}
	return more
}

func funcName(fset *token.FileSet, fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	return "(" + sprint(fset, fn.Recv.List[0].Type) + ")." + fn.Name.Name
}

func sprint(fset *token.FileSet, node any) string {
	var b strings.Builder
	if err := printer.Fprint(&b, fset, node); err != nil {
		return err.Error()
	}
	return b.String()
}
