package tcpbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tcpbox/netns"
	"tcpbox/netns/sockdiag"
	"tcpbox/netns/sockwatch"
	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

// guestLeg carries knobs as sysctls of the guest's network namespace, and the one
// that the kernel has no sysctl for by ending its TIME-WAITs.
type guestLeg struct{ s *Sandbox }

const timeWaitKey = "time-wait.timeout"

// Plan implements knob.Carrier.
func (l guestLeg) Plan(settings []knob.Setting) []knob.Outcome {
	out := make([]knob.Outcome, 0, len(settings))
	for _, set := range settings {
		o := knob.Outcome{Leg: tcpstate.Guest, Key: set.Key}
		if o.Text = l.refuses(set); o.Text == "" {
			o.Applied, o.Text = true, l.text(set)
		}
		out = append(out, o)
	}
	return out
}

// refuses says why the guest's leg cannot carry a setting here; empty if it can.
func (l guestLeg) refuses(set knob.Setting) string {
	sysctls, err := knob.GuestSysctls(set)
	if err != nil {
		return err.Error()
	}
	if set.Key == timeWaitKey {
		return l.cannotEnd(set)
	}
	for _, sc := range sysctls {
		if lacksSysctl(sc.Name) {
			return "this kernel has no sysctl " + sc.Name
		}
		if sc.Name == "net.ipv4.tcp_congestion_control" {
			if why := notAllowed(sc.Value); why != "" {
				return why
			}
		}
	}
	return ""
}

// text says what is done for a setting that the leg carries.
func (l guestLeg) text(set knob.Setting) string {
	if set.Key == timeWaitKey {
		if set.Duration >= sockwatch.TimeWaitLength {
			return "the kernel's own"
		}
		return fmt.Sprintf("TIME-WAIT is ended after %s", set.Canonical())
	}
	sysctls, _ := knob.GuestSysctls(set)
	var texts []string
	for _, sc := range sysctls {
		texts = append(texts, sc.String())
	}
	return strings.Join(texts, ", ")
}

// cannotEnd says why TIME-WAITs cannot be shortened.
func (l guestLeg) cannotEnd(set knob.Setting) string {
	if set.Duration >= sockwatch.TimeWaitLength {
		return ""
	}
	if l.s.unwatched {
		return "the kernel's TIME-WAIT is a constant of 60 s, and to end one it must be seen: this sandbox does not watch the guest's sockets"
	}
	if err := sockdiag.CanDestroy(); err != nil {
		return fmt.Sprintf("the kernel's TIME-WAIT is a constant of 60 s, and it cannot be ended: %v", err)
	}
	return ""
}

// lacksSysctl reports whether the kernel has no such sysctl of network namespaces.
// Where /proc/sys is hidden that is not known.
func lacksSysctl(name string) bool {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// notAllowed says why a network namespace may not have the congestion control.
func notAllowed(name string) string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		return ""
	}
	allowed := strings.Fields(string(b))
	if slices.Contains(allowed, name) {
		return ""
	}
	return fmt.Sprintf("the kernel allows a network namespace %s, by net.ipv4.tcp_allowed_congestion_control of the host", strings.Join(allowed, " or "))
}

// Apply implements knob.Carrier. If one sysctl cannot be written, those before
// it get their old values back.
func (l guestLeg) Apply(settings []knob.Setting) (err error) {
	ns := l.s.inside.NS()
	var written []netns.Sysctl
	defer func() {
		if err == nil {
			return
		}
		for i := len(written) - 1; i >= 0; i-- {
			_ = ns.SetSysctl(written[i].Name, written[i].Value)
		}
	}()
	timeWait := time.Duration(-1)
	for _, set := range settings {
		sysctls, err := knob.GuestSysctls(set)
		if err != nil {
			return err
		}
		if set.Key == timeWaitKey {
			if why := l.cannotEnd(set); why != "" {
				return fmt.Errorf("set %s: %s", set, why)
			}
			timeWait = set.Duration
		}
		for _, sc := range sysctls {
			old, err := ns.Sysctl(sc.Name)
			if err != nil {
				return fmt.Errorf("%s: this kernel does not offer it: %w", sc.Name, err)
			}
			if err := ns.SetSysctl(sc.Name, sc.Value); err != nil {
				return err
			}
			written = append(written, netns.Sysctl{Name: sc.Name, Value: old})
		}
	}
	if timeWait >= 0 && l.s.sockets != nil {
		l.s.sockets.watcher.SetTimeWait(timeWait)
	}
	return nil
}
