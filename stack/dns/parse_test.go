package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

func TestParseHost(t *testing.T) {
	tests := []struct {
		text, want, wantErr string
	}{
		// The forms.
		{text: "db:10.0.0.5", want: "db:10.0.0.5"},
		{text: "db=10.0.0.5", want: "db:10.0.0.5"},
		{text: "db:fd00::5", want: "db:fd00::5"},
		{text: "db:::1", want: "db:::1"},
		{text: "db:[fd00::5]", want: "db:fd00::5"},
		{text: "db=[fd00::5]", want: "db:fd00::5"},
		{text: "db:::ffff:10.0.0.5", want: "db:10.0.0.5"},
		{text: "ads.example:0.0.0.0", want: "ads.example:0.0.0.0"},

		// Names.
		{text: "DB.Example.:10.0.0.5", want: "db.example:10.0.0.5"},
		{text: "my_db-1:10.0.0.5", want: "my_db-1:10.0.0.5"},
		{text: ":10.0.0.5", wantErr: "the name is empty"},
		{text: "a..b:10.0.0.5", wantErr: "empty label"},
		{text: "a b:10.0.0.5", wantErr: "' ' is not a letter"},
		{text: "-a:10.0.0.5", wantErr: "hyphen"},
		{text: "*.example:10.0.0.5", wantErr: "'*' is not a letter"},
		{text: "localhost:10.0.0.5", wantErr: "the guest itself"},
		{text: "ip6-localhost:10.0.0.5", wantErr: "the guest itself"},
		{text: "ip6-loopback:10.0.0.5", wantErr: "the guest itself"},
		{text: "10.0.0.5:10.0.0.5", wantErr: "is an address, not a name"},
		{text: strings.Repeat("a", 64) + ":10.0.0.5", wantErr: "at most 63"},
		{text: strings.Repeat("a.", 130) + ":10.0.0.5", wantErr: "at most 253"},

		// Addresses.
		{text: "db", wantErr: "NAME:IP"},
		{text: "db:", wantErr: `"" is not an IP address`},
		{text: "db:host-gateway", wantErr: "no address inside the sandbox"},
		{text: "db:10.0.0", wantErr: "is not an IP address"},
		{text: "db:[10.0.0.5]", wantErr: "is not an IP address"},
		{text: "db:[fd00::5", wantErr: "is not an IP address"},
		{text: "db:fe80::1%eth0", wantErr: "zone"},
		{text: "db:10.0.0.5:80", wantErr: "is not an IP address"},
	}
	for _, tt := range tests {
		got, err := ParseHost(tt.text)
		check(t, "ParseHost", tt.text, got.String(), err, tt.want, tt.wantErr)
	}
}

func TestParseServer(t *testing.T) {
	tests := []struct {
		text, want, wantErr string
	}{
		{text: "9.9.9.9", want: "9.9.9.9:53"},
		{text: "127.0.0.1:5353", want: "127.0.0.1:5353"},
		{text: "2620:fe::9", want: "[2620:fe::9]:53"},
		{text: "[2620:fe::9]", want: "[2620:fe::9]:53"},
		{text: "[2620:fe::9]:5353", want: "[2620:fe::9]:5353"},
		{text: "fe80::1%eth0", want: "[fe80::1%eth0]:53"},
		{text: "[fe80::1%eth0]:54", want: "[fe80::1%eth0]:54"},
		{text: "::ffff:9.9.9.9", want: "9.9.9.9:53"},
		{text: "[::ffff:9.9.9.9]:54", want: "9.9.9.9:54"},

		{text: "fe80::1%]0", wantErr: "name of an interface"},
		{text: "fe80::1%0123456789abcdef", wantErr: "name of an interface"},
		{text: "", wantErr: "is not an IP address"},
		{text: "dns.example", wantErr: "is not an IP address"},
		{text: "9.9.9.9:", wantErr: "is not a port"},
		{text: "9.9.9.9:0", wantErr: "1 to 65535"},
		{text: "9.9.9.9:+53", wantErr: "1 to 65535"},
		{text: "9.9.9.9:65536", wantErr: "1 to 65535"},
		{text: "[2620:fe::9", wantErr: "not closed"},
		{text: "[2620:fe::9]53", wantErr: "expected :PORT"},
		{text: "224.0.0.251", wantErr: "multicast"},
		{text: "ff02::fb", wantErr: "multicast"},
		{text: "0.0.0.0", wantErr: "unspecified"},
		{text: "[::]:53", wantErr: "unspecified"},
		{text: "255.255.255.255", wantErr: "broadcast"},
	}
	for _, tt := range tests {
		got, err := ParseServer(tt.text)
		check(t, "ParseServer", tt.text, got.String(), err, tt.want, tt.wantErr)
	}
}

func check(t *testing.T, call, text, got string, err error, want, wantErr string) {
	t.Helper()
	switch {
	case wantErr == "" && err != nil:
		t.Errorf("%s(%.80q): %v", call, text, err)
	case wantErr == "" && got != want:
		t.Errorf("%s(%q) = %s, want %s", call, text, got, want)
	case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
		t.Errorf("%s(%.80q) = %v, %v, want an error with %q", call, text, got, err, wantErr)
	}
}

func TestHostResolvers(t *testing.T) {
	tests := []struct {
		content string
		want    string
	}{
		{"", "127.0.0.1:53"},
		{"# nameserver 9.9.9.9\n; nameserver 9.9.9.9\nsearch example\noptions edns0\n", "127.0.0.1:53"},
		{"nameserver 127.0.0.53\noptions edns0 trust-ad\n", "127.0.0.53:53"},
		{"nameserver 10.0.0.1\nnameserver\t10.0.0.2  # office\r\nnameserver   fd00::1", "10.0.0.1:53 10.0.0.2:53 [fd00::1]:53"},
		{"nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53"},
		{"nameserver 0.0.0.0\nnameserver ::\n", "127.0.0.1:53 [::1]:53"},
		// At most three, each once.
		{"nameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n", "10.0.0.1:53 10.0.0.2:53 10.0.0.3:53"},
		// Lines that glibc does not take.
		{" nameserver 10.0.0.1\nnameservers 10.0.0.2\nnameserver10.0.0.3\nnameserver\nnameserver dns.example\nnameserver 224.0.0.1\n", "127.0.0.1:53"},
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for _, tt := range tests {
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := HostResolvers(path)
		if text := servers(got); text != tt.want || err != nil {
			t.Errorf("HostResolvers with %q = %s, %v, want %s", tt.content, text, err, tt.want)
		}
	}
	if got, err := HostResolvers(path + ".missing"); servers(got) != "127.0.0.1:53" || err != nil {
		t.Errorf("HostResolvers without a file = %v, %v, want 127.0.0.1:53", got, err)
	}
	if got, err := HostResolvers(t.TempDir()); err == nil {
		t.Errorf("HostResolvers of a directory = %v, want an error", got)
	}
}

func servers(list []netip.AddrPort) string {
	var texts []string
	for _, server := range list {
		texts = append(texts, server.String())
	}
	return strings.Join(texts, " ")
}

func TestNewReportsEveryFault(t *testing.T) {
	_, err := New(Config{
		Hosts:      []Host{{Name: "a b", Addr: netip.MustParseAddr("10.0.0.1")}, {Name: "web"}},
		Forward:    []netip.AddrPort{{}, netip.MustParseAddrPort("9.9.9.9:0")},
		MaxQueries: -1,
	})
	if err == nil {
		t.Fatal("New: no error")
	}
	for _, want := range []string{`host "a b"`, `host "web": the address is missing`, "the address is missing", "the port is missing", "negative"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want it to say %q", err, want)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"db:10.0.0.5", "db=[fd00::5]", "db:::1", "a.B.:::ffff:1.2.3.4", "x:fe80::1%1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHost(text)
		if err != nil {
			return
		}
		if again, err := ParseHost(h.String()); err != nil || again != h {
			t.Errorf("ParseHost(%q) = %v, but ParseHost(%q) = %v, %v", text, h, h, again, err)
		}
		if _, err := newTable([]Host{h}); err != nil {
			t.Errorf("ParseHost(%q) = %v, which a server does not take: %v", text, h, err)
		}
	})
}

func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{"9.9.9.9", "1.1.1.1:53", "[::1]:5353", "fe80::1%eth0", "[fe80::1%a]:1", "[::]", "::%]0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		server, err := ParseServer(text)
		if err != nil {
			return
		}
		if again, err := ParseServer(server.String()); err != nil || again != server {
			t.Errorf("ParseServer(%q) = %v, but ParseServer(%q) = %v, %v", text, server, server, again, err)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.53\noptions edns0\nsearch .\n")
	f.Add("nameserver fe80::1%eth0\r\nnameserver\t10.0.0.1 x\n#nameserver 1.1.1.1")
	f.Fuzz(func(t *testing.T, content string) {
		got, err := parseResolvConf(strings.NewReader(content))
		if err != nil || len(got) < 1 || len(got) > maxServers {
			t.Fatalf("parseResolvConf(%q) = %v, %v, want one to three servers", content, got, err)
		}
		for i, server := range got {
			if checkServer(server) != nil || slices.Contains(got[:i], server) {
				t.Errorf("parseResolvConf(%q) = %v", content, got)
			}
		}
	})
}

func FuzzReversed(f *testing.F) {
	f.Add("10.0.18.198.in-addr.arpa", []byte{198, 18, 0, 10})
	f.Add("1.0.0.127.ip6.arpa", netip.MustParseAddr("fd74:6370:626f:78::10").AsSlice())
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		reversed(name)
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		addr = addr.Unmap()
		arpa, err := miekg.ReverseAddr(addr.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reversed(strings.TrimSuffix(arpa, ".")); !ok || got.Unmap() != addr {
			t.Errorf("reversed(%q) = %v, %v, want %v", arpa, got, ok, addr)
		}
	})
}
