package tcpbox

import (
	"net/netip"

	"tcpbox/stack/peer"
)

// servePeers makes the hosts inside the stack.
func (s *Sandbox) servePeers(cfg *Config, addrs addressPlan) error {
	for i, spec := range cfg.Peers {
		for _, a := range addrs.peers[i] {
			if err := s.servePeer(spec, netip.AddrPortFrom(a, spec.Port)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sandbox) servePeer(spec peer.Spec, at netip.AddrPort) error {
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
	s.running.Go(func() { _ = peer.Serve(s.life, spec.Kind, l) })
	return nil
}
