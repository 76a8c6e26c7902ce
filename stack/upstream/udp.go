package upstream

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"tcpbox/stack/relay"
)

// DialUDP makes a UDP socket that is connected to dst. Nothing is sent. src
// names the guest's flow and is not seen by dst. The errors are those of
// DialTCP as far as they can be met without sending, and mean the same.
//
// Path MTU discovery is left as the host has it, so that a datagram that is
// larger than the path takes leaves in fragments rather than not at all.
func (h *Host) DialUDP(ctx context.Context, src, dst netip.AddrPort) (relay.Packets, error) {
	c, err := h.openPackets(ctx, "udp", unix.IPPROTO_UDP, dst)
	if err != nil {
		return nil, fmt.Errorf("upstream: dial udp %v: %w", dst, err)
	}
	return c, nil
}
