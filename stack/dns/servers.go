package dns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	dnsPort = 53

	// maxServers is how many name servers glibc takes from resolv.conf (MAXNS in
	// resolv.h).
	maxServers = 3

	// maxResolvConf is how much of resolv.conf is read, in bytes.
	maxResolvConf = 1 << 20
)

// ParseServer reads the address of a resolver: ADDR, ADDR:PORT, [ADDR] or
// [ADDR]:PORT. An IPv6 address with a port is in brackets. Without a port it is
// 53.
func ParseServer(text string) (netip.AddrPort, error) {
	server, err := parseServer(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("dns: server %q: %w", text, err)
	}
	return server, nil
}

func parseServer(text string) (netip.AddrPort, error) {
	host, port := text, uint16(dnsPort)
	if _, err := netip.ParseAddr(text); err != nil {
		portText, hasPort := "", false
		if inner, ok := strings.CutPrefix(text, "["); ok {
			var after string
			if host, after, ok = strings.Cut(inner, "]"); !ok {
				return netip.AddrPort{}, errors.New("a bracket is not closed")
			}
			if portText, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
				return netip.AddrPort{}, fmt.Errorf("%q follows the address; expected :PORT", after)
			}
		} else if strings.Count(text, ":") == 1 {
			host, portText, hasPort = strings.Cut(text, ":")
		}
		if hasPort {
			n, err := strconv.ParseUint(portText, 10, 16)
			if err != nil || n == 0 || portText[0] == '+' {
				return netip.AddrPort{}, fmt.Errorf("%q is not a port; ports are 1 to 65535", portText)
			}
			port = uint16(n)
		}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address; expected ADDR, ADDR:PORT or [ADDR]:PORT, such as 9.9.9.9 or [2620:fe::9]:53", host)
	}
	server := netip.AddrPortFrom(addr.Unmap(), port)
	return server, checkServer(server)
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// checkServer says what keeps server from being asked.
func checkServer(server netip.AddrPort) error {
	switch {
	case !server.Addr().IsValid():
		return errors.New("the address is missing")
	case server.Port() == 0:
		return errors.New("the port is missing")
	case server.Addr().IsMulticast():
		return errors.New("a multicast address is not a resolver")
	case server.Addr().IsUnspecified():
		return errors.New("the unspecified address is not a resolver")
	case server.Addr() == broadcast:
		return errors.New("the broadcast address is not a resolver")
	case !validZone(server.Addr().Zone()):
		return fmt.Errorf("%q is not the name of an interface", server.Addr().Zone())
	}
	return nil
}

// validZone reports whether zone can be an interface's name or index: at most
// 15 visible characters, and none that divides an address.
func validZone(zone string) bool {
	for _, c := range []byte(zone) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/[]%:", c) >= 0 {
			return false
		}
	}
	return len(zone) < 16
}

// HostResolvers returns the name servers that the resolv.conf(5) at path gives,
// as glibc reads them: the first three, 127.0.0.1 if there are none or no such
// file, and lines that it cannot read passed over. Loopback addresses are among
// them where a resolver runs on the host itself.
func HostResolvers(path string) ([]netip.AddrPort, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return parseResolvConf(strings.NewReader(""))
	}
	if err != nil {
		return nil, fmt.Errorf("dns: resolvers of the host: %w", err)
	}
	defer file.Close()
	servers, err := parseResolvConf(file)
	if err != nil {
		return nil, fmt.Errorf("dns: resolvers of the host: read %s: %w", path, err)
	}
	return servers, nil
}

// parseResolvConf is HostResolvers on the content.
func parseResolvConf(r io.Reader) ([]netip.AddrPort, error) {
	var servers []netip.AddrPort
	lines := bufio.NewReader(io.LimitReader(r, maxResolvConf))
	for len(servers) < maxServers {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			return nil, err
		}
		if server, ok := nameServer(line); ok && !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
		if err == io.EOF {
			break
		}
	}
	if len(servers) == 0 {
		servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	return servers, nil
}

// nameServer reads one line of resolv.conf. The keyword begins the line and
// blanks follow it; what comes after the address is ignored.
func nameServer(line string) (netip.AddrPort, bool) {
	rest, ok := strings.CutPrefix(line, "nameserver")
	if !ok || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
		return netip.AddrPort{}, false
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return netip.AddrPort{}, false
	}
	addr, err := netip.ParseAddr(fields[0])
	if err != nil {
		return netip.AddrPort{}, false
	}
	switch addr = addr.Unmap(); addr { // a kernel connects to the machine itself
	case netip.IPv4Unspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		addr = netip.IPv6Loopback()
	}
	server := netip.AddrPortFrom(addr, dnsPort)
	return server, checkServer(server) == nil
}
