package knob

import (
	"slices"
	"strings"
)

// elsewhere are network sysctls that a namespace does not have to itself, and
// why. Each is the name below net.
var elsewhere = map[string]string{
	"ipv4.tcp_mem":                          "it is of the whole machine",
	"ipv4.tcp_max_orphans":                  "it is of the whole machine; stack.orphan.max limits the stack's",
	"ipv4.tcp_low_latency":                  "it is of the whole machine, and without effect",
	"ipv4.udp_mem":                          "it is of the whole machine",
	"core.netdev_max_backlog":               "it is of the whole machine",
	"core.netdev_budget":                    "it is of the whole machine",
	"core.default_qdisc":                    "it is of the whole machine",
	"core.bpf_jit_enable":                   "it is of the whole machine",
	"core.rmem_max":                         "a namespace may only read it",
	"core.wmem_max":                         "a namespace may only read it",
	"core.rmem_default":                     "a namespace may only read it",
	"core.wmem_default":                     "a namespace may only read it",
	"ipv4.tcp_ehash_entries":                "a namespace may only read it",
	"ipv4.tcp_available_congestion_control": "a namespace may only read it",
	"ipv4.tcp_allowed_congestion_control":   "a namespace may only read it",
}

// roots are where sysctl(8) finds parameters. No knob begins like one of them.
var roots = []string{"abi", "crypto", "debug", "dev", "fs", "kernel", "net", "sunrpc", "user", "vm"}

// IsSysctl reports whether a name is that of a sysctl by how it begins, of whatever kind
// and whether there is one or not.
func IsSysctl(name string) bool {
	root, _, ok := strings.Cut(name, ".")
	return ok && slices.Contains(roots, root)
}

// CheckSysctl says why a sysctl cannot be written into a network namespace, by
// its name and form alone; the kernel has the last word. The error is an
// *Error.
func CheckSysctl(s Sysctl) error {
	fault := func(message, hint string) error {
		return &Error{Input: s.Name + "=" + s.Value, Message: message, Hint: hint}
	}
	name, ok := strings.CutPrefix(s.Name, "net.")
	switch {
	case !ok:
		return fault("it is not of a network namespace", "only what begins with net. is the sandbox's own, such as net.ipv4.tcp_rfc1337")
	case !isSysctlName(name):
		return fault("it is not the name of a sysctl", "names are words with dots between them, such as net.ipv4.tcp_rfc1337")
	case strings.ContainsFunc(s.Value, func(r rune) bool { return r < ' ' || r > '~' }) || len(s.Value) > 4096:
		return fault("its value is not one line of text", "a value is what sysctl(8) would be given")
	}
	if why, ok := elsewhere[name]; ok {
		return fault("it cannot be set for one sandbox: "+why, "leave it out")
	}
	return nil
}

// isSysctlName reports whether the parts between the dots are words. A slash
// stands for a dot in the name of an interface.
func isSysctlName(name string) bool {
	if len(name) > 128 {
		return false
	}
	parts := strings.Split(name, ".")
	for _, part := range parts {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-/@:", r)
		}) || strings.Trim(part, "/") == "" {
			return false
		}
	}
	return len(parts) > 1
}

// ParseSysctl reads NAME=VALUE, as sysctl(8) and docker run --sysctl take it.
// The error is an *Error.
func ParseSysctl(text string) (Sysctl, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return Sysctl{}, &Error{Input: text, Message: "it has no value", Hint: "a sysctl is NAME=VALUE, such as net.ipv4.tcp_rfc1337=1"}
	}
	s := Sysctl{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)}
	if err := CheckSysctl(s); err != nil {
		return Sysctl{}, err
	}
	return s, nil
}
