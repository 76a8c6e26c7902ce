package tcpbox_test

import (
	"errors"
	"net/netip"
	"testing"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/stack/legs"
	"tcpbox/stack/peer"
	"tcpbox/stack/statelog"
	"tcpbox/tun/packet"
)

// TestTraceSegments: a connection's segments come when it has ended, or the
// sandbox does, with the number that its transitions have.
func TestTraceSegments(t *testing.T) {
	echo, err := peer.ParseSpec("echo=echo:7")
	if err != nil {
		t.Fatal(err)
	}
	var traces [][]statelog.Segment
	records := make(map[string][]statelog.Record)
	s := box(t, "echo echo:7", tcpbox.Config{
		Policy: policy.Policy{Net: policy.NetNone}, Peers: []peer.Spec{echo}, TraceSegments: true,
		OnSegments: func(s []statelog.Segment) { traces = append(traces, s) },
		OnRecords: func(items []statelog.Item) {
			for i := range items {
				r := items[i].Record("box")
				records[r.Remote.String()] = append(records[r.Remote.String()], r)
			}
		},
	})
	if status, err := s.Wait(); err != nil || status.ExitCode() != 0 {
		t.Fatalf("Wait = %v, %v", status, err)
	}
	for _, trace := range traces {
		first := trace[0]
		if first.Dst.Port() != 7 {
			continue
		}
		own := records[first.Src.String()]
		if len(own) == 0 || first.Conn != own[0].Conn || first.Conn == 0 {
			t.Errorf("the segments are of connection %d, the records %+v", first.Conn, own)
		}
		all := legs.NewLadders(first.Conn)
		fins := map[netip.AddrPort]bool{} // of whom; a slow machine sends one again
		for i := range trace {
			h, err := trace[i].TCP()
			if err != nil {
				t.Fatal(err)
			}
			if h.Flags.Has(packet.FIN) {
				fins[trace[i].Src] = true
			}
			trace[i].Sandbox = "box"
			all.Segment(&trace[i])
		}
		for i := range own {
			all.Record(&own[i])
		}
		lad, err := all.Ladder()
		if err != nil || len(fins) != 2 || len(trace) < 7 || len(lad.Rungs[0].Steps) == 0 {
			t.Errorf("%d segments with the FINs of %d; %v", len(trace), len(fins), err)
		}
		if kept, segments, err := s.Segments(first.Conn); err != nil || len(segments) != len(trace) || len(kept) == 0 {
			t.Errorf("Segments = %d records, %d segments, %v", len(kept), len(segments), err)
		}
		return
	}
	t.Errorf("no trace of the connection among %d", len(traces))
}

func TestNoTrace(t *testing.T) {
	s := box(t, "exit 0", tcpbox.Config{})
	if _, _, err := s.Segments(1); !errors.Is(err, tcpbox.ErrNoTrace) {
		t.Errorf("Segments = %v", err)
	}
	if _, err := s.Wait(); err != nil {
		t.Error(err)
	}
}
