package tcpbox

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// etcFiles are the files that the guest finds in /etc so that names go through
// the sandbox's resolver and nowhere else.
func etcFiles(a addressPlan, hostname string) map[string][]byte {
	host, _ := os.ReadFile("/etc/nsswitch.conf") // without one, ours is enough
	return map[string][]byte{
		"resolv.conf":   resolvConf(a.gateways[0]),
		"hosts":         hostsFile(a.guests, hostname),
		"nsswitch.conf": nsswitchConf(host),
	}
}

// ownName is the name under which the guest finds itself in /etc/hosts. There it
// would hide a peer or an added host of that name, so it gives way to them.
func ownName(cfg *Config) string {
	name := hostnameOf(cfg)
	for _, p := range cfg.Peers {
		if strings.EqualFold(p.Name, name) {
			return ""
		}
	}
	for _, h := range cfg.DNS.Hosts {
		if strings.EqualFold(strings.TrimSuffix(h.Name, "."), name) {
			return ""
		}
	}
	return name
}

// resolvConf has no search domains: they would make the resolver of the C
// library ask others for what looks like a peer's name.
func resolvConf(gateway netip.Addr) []byte {
	return fmt.Appendf(nil, "# written by tcpbox for this sandbox\nnameserver %v\n", gateway)
}

// hostsFile is without the machine's own name where hostname is "".
func hostsFile(guests []netip.Prefix, hostname string) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if hostname != "" && hostname != "localhost" {
		for _, g := range guests {
			fmt.Fprintf(&b, "%v\t%s\n", g.Addr(), hostname)
		}
	}
	return b.Bytes()
}

// nsswitchConf is the host's with names of hosts from files and DNS only:
// daemons of the host (nscd, systemd-resolved) would answer past the sandbox.
func nsswitchConf(host []byte) []byte {
	const hosts = "hosts:          files dns\n"
	var b bytes.Buffer
	done := false
	for line := range strings.Lines(string(host)) {
		if key, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "hosts" {
			if !done {
				b.WriteString(hosts)
				done = true
			}
			continue
		}
		b.WriteString(line)
	}
	if b.Len() > 0 && !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		b.WriteByte('\n')
	}
	if !done {
		b.WriteString(hosts)
	}
	return b.Bytes()
}
