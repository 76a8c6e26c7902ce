package tcpbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Dial opens a TCP connection to a port inside the sandbox, which sees the gateway's
// address as its client. network is "tcp", "tcp4" or "tcp6". address is ":PORT",
// for whichever of the guest's addresses listens, IPv4 first, or one of the
// guest's addresses with a port. What listens on the guest's own loopback only
// is not reached. When the guest has ended, so does a dial, with ErrEnded. The
// error is a *net.OpError and matches the errno that a connect would return;
// ECONNREFUSED: nobody listens.
//
// The connection is a stack.Conn: it has CloseWrite, and Reset, which sends RST.
func (s *Sandbox) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.inside.Done():
			cancel(ErrEnded)
		case <-ctx.Done():
		}
	}()
	targets, err := s.targets(network, address)
	select {
	case <-s.inside.Done():
		targets, err = nil, errors.Join(err, ErrEnded)
	default:
	}
	var errs []error
	for _, dst := range targets {
		c, err := s.gateway.Dial(ctx, s.gatewayFor(dst.Addr()), dst)
		if err == nil {
			return c, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			errs = []error{cause}
			break
		}
		errs = append(errs, err)
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: hostAddr(address), Err: distinct(append(errs, err))}
}

// distinct joins errors, and of those that say the same only the first: both
// families fail alike.
func distinct(errs []error) error {
	var all []error
	said := make(map[string]bool)
	for _, err := range errs {
		if err != nil && !said[err.Error()] {
			said[err.Error()] = true
			all = append(all, err)
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// targets are the guest's addresses that address means, in order.
func (s *Sandbox) targets(network, address string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("expected :PORT, or an address of the guest's and a port")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("%q is not a port from 1 to 65535", portText)
	}
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, net.UnknownNetworkError(network)
	}
	var all []netip.AddrPort
	for _, p := range s.info.Addresses {
		if host != "" && host != p.Addr().String() || network == "tcp4" && !p.Addr().Is4() || network == "tcp6" && !p.Addr().Is6() {
			continue
		}
		all = append(all, netip.AddrPortFrom(p.Addr(), uint16(port)))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no such address in the sandbox; the guest has %v", s.info.Addresses)
	}
	return all, nil
}

// gatewayFor is the gateway's address of the family of guest, with a port that
// the stack picks.
func (s *Sandbox) gatewayFor(guest netip.Addr) netip.AddrPort {
	for _, g := range s.info.Gateways {
		if g.Is4() == guest.Is4() {
			return netip.AddrPortFrom(g, 0)
		}
	}
	return netip.AddrPort{}
}
