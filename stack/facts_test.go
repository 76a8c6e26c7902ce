package stack

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"tcpbox/stack/relay"
)

func TestWhoClosedFirstAndHow(t *testing.T) {
	for _, row := range []struct {
		result relay.Result
		want   string
	}{
		{relay.Result{First: relay.Guest, FirstBy: relay.ByFIN, End: relay.ByFIN}, "guest FIN"},
		{relay.Result{First: relay.Upstream, FirstBy: relay.ByFIN, End: relay.ByFIN}, "upstream FIN"},
		{relay.Result{First: relay.Guest, FirstBy: relay.ByRST, By: relay.Guest, End: relay.ByRST}, "guest RST"},
		{relay.Result{First: relay.Guest, FirstBy: relay.ByFIN, By: relay.Upstream, End: relay.ByRST}, "guest FIN"},
		{relay.Result{First: relay.Upstream, FirstBy: relay.ByFIN, End: relay.ByTimeout}, "upstream FIN"},
		{relay.Result{By: relay.Upstream, End: relay.ByError, Err: fmt.Errorf("read: %w", syscall.ETIMEDOUT)}, "upstream timeout"},
		{relay.Result{By: relay.Guest, End: relay.ByError, Err: syscall.EHOSTUNREACH}, "guest error"},
		{relay.Result{End: relay.ByError, Err: context.Canceled}, "stack stop"},
		{relay.Result{FirstBy: relay.ByRST, End: relay.ByRST, Err: relay.ErrReset}, "stack RST"},
		{relay.Result{First: relay.Guest, FirstBy: relay.ByFIN, End: relay.ByRST, Err: relay.ErrReset}, "guest FIN"},
		{relay.Result{FirstBy: relay.ByFIN, End: relay.ByFIN}, "stack FIN"},
	} {
		if got := endingOf(row.result).String(); got != row.want {
			t.Errorf("%v: closed by %s, want %s", row.result, got, row.want)
		}
	}
}
