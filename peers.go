package tcpbox

import (
	"context"
	"net/netip"

	"tcpbox/stack/peer"
)

// servePeers makes the hosts inside the stack.
func (s *Sandbox) servePeers(life context.Context, cfg *Config, addrs addressPlan) error {
	for i, spec := range cfg.Peers {
		for _, a := range addrs.peers[i] {
			if err := s.servePeer(life, spec, netip.AddrPortFrom(a, spec.Port)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sandbox) servePeer(life context.Context, spec peer.Spec, at netip.AddrPort) error {
	if err := s.gateway.Refuse(at.Addr()); err != nil { // its other ports
		return err
	}
	switch spec.Kind {
	case peer.Refuse:
		return nil
	case peer.Blackhole:
		return s.gateway.Blackhole(at)
	}
	l, err := s.gateway.Listen(at)
	if err != nil {
		return err
	}
	s.running.Go(func() { _ = peer.Serve(life, spec.Kind, l) })
	return nil
}
