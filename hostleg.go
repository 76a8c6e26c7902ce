package tcpbox

import (
	"net/netip"
	"time"

	"tcpbox/netns/sockdiag"
	"tcpbox/stack/tcpstate"
)

// watchHost makes the host's sockets tell the log of their states. Where the host
// does not let itself be asked, the states after the release are unknown.
func (s *Sandbox) watchHost() {
	s.host.Sink = s.log.Push
	var err error
	if s.finder, err = sockdiag.NewFinder(); err != nil {
		s.diag.Warn("what becomes of the host's sockets after their release will not be known", "sandbox", s.name, "err", err)
		return
	}
	s.host.Find = func(local, remote netip.AddrPort) (tcpstate.State, time.Duration, error) {
		found, ok, err := s.finder.FindTCP(local, remote)
		switch {
		case err != nil || !ok:
			return tcpstate.Closed, 0, err
		case found.Timer.Kind == sockdiag.TimeWaiting:
			return found.State, found.Timer.Left, nil
		}
		return found.State, 0, nil
	}
}
