package tcpbox

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

func TestDistinct(t *testing.T) {
	refused := fmt.Errorf("connect: %w", syscall.ECONNREFUSED)
	for _, row := range []struct {
		errs []error
		want string
	}{
		{[]error{refused, fmt.Errorf("connect: %w", syscall.ECONNREFUSED), nil}, "connect: connection refused"},
		{[]error{refused, errors.New("other"), refused}, "connect: connection refused\nother"},
	} {
		err := distinct(row.errs)
		if err.Error() != row.want || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("distinct(%v) = %q, want %q", row.errs, err, row.want)
		}
	}
	if err := distinct([]error{nil}); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
