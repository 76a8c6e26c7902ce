package main

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"tcpbox"
	"tcpbox/cmd/internal/control"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
	"tcpbox/stack/dns"
)

// maxFile is more than is taken of a policy or a lab, so that who parses it says
// so.
const maxFile = 1<<20 + 1

// readPolicy reads the policy document in a file. Each fault of it is wrong
// input.
func readPolicy(path string) (document.Document, error) {
	data, err := readPolicyFile(path)
	if err != nil {
		return document.Document{}, err
	}
	return document.Parse(control.FileName(path), data)
}

// readPolicyFile reads the file that a document is in.
func readPolicyFile(path string) ([]byte, error) {
	hint := "it is a policy document; see docs/policy.md"
	// A FIFO must not make this wait for ever: opened so, it does not wait to be opened,
	// and can be given a deadline.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, usagef(hint, "policy %q: %v", path, underlying(err))
	}
	defer f.Close()
	data, err := readInTime(f, policyPatience)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, usagef("begin to write to it before, or give a file", "policy %q: nobody has written a document to it within %v", path, policyPatience)
	}
	if err != nil {
		return nil, usagef(hint, "policy %q: %v", path, underlying(err))
	}
	return data, nil
}

// policyPatience is how long it is waited for who writes to a FIFO.
const policyPatience = 10 * time.Second

// readInTime reads f to its end, which for a FIFO that has no writer yet is not the
// end.
func readInTime(f *os.File, patience time.Duration) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pipe := st.Mode()&os.ModeNamedPipe != 0
	end := time.Now().Add(patience)
	if pipe {
		if err := f.SetReadDeadline(end); err != nil {
			return nil, err
		}
	}
	for {
		data, err := io.ReadAll(io.LimitReader(f, maxFile))
		if len(data) > 0 || err != nil || !pipe {
			return data, err
		}
		if !time.Now().Before(end) {
			return nil, os.ErrDeadlineExceeded
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// underlying is an error without the name of the file, which is quoted beside
// it.
func underlying(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// settle makes the configuration of the document and of the flags, which win
// over it key by key and whose rules stand in front of its own.
func (f *runFlags) settle() error {
	var doc document.Document
	if f.policyFile != "" {
		var err error
		if doc, err = readPolicy(f.policyFile); err != nil {
			return err
		}
	}
	f.fromFile = doc
	f.nameSources()
	f.document = f.over.Over(doc)
	apply(&f.config, f.document)
	return nil
}

// nameSources says of what came from flags that it did.
func (f *runFlags) nameSources() {
	for i := range f.over.TCP {
		if f.over.TCP[i].Source == "" {
			f.over.TCP[i].Source = "--tcp"
		}
	}
	for i := range f.over.Sysctls {
		if f.over.Sysctls[i].Source == "" {
			f.over.Sysctls[i].Source = "--sysctl"
		}
	}
}

// apply sets what a document says.
func apply(c *tcpbox.Config, d document.Document) {
	s := control.SettingsOf(d)
	c.Policy, c.Knobs, c.Sysctls, c.Limits, c.Faults = s.Policy, s.Knobs, s.Sysctls, s.Limits, s.Faults
	c.DNS = tcpbox.DNS{None: d.DNS.Mode == document.DNSNone, Servers: d.DNS.Servers}
	for _, h := range d.DNS.Hosts {
		c.DNS.Hosts = append(c.DNS.Hosts, dns.Host(h))
	}
}

// setPolicy takes the flags that a document has keys for. It reports false for
// the others.
func (f *runFlags) setPolicy(flag, value string) (taken bool, err error) {
	d := &f.over
	switch flag {
	case "policy":
		if f.policyFile != "" {
			return true, usagef("leave one of them out", "there is one already: %q", f.policyFile)
		}
		if value == "" {
			return true, usagef("see docs/policy.md", "it has no name")
		}
		f.policyFile = value
	case "net":
		net, err := policy.ParseNet(value)
		if err != nil {
			return true, usagef("--net is none, public or all", "there is no such choice")
		}
		d.Net = &net
	case "allow", "deny":
		action := policy.Deny
		if flag == "allow" {
			action = policy.Allow
		}
		r, err := policy.ParseRule(action, value)
		if err != nil {
			return true, err
		}
		d.Rules = append(d.Rules, document.Rule{Rule: r, Source: "--" + flag})
	case "tcp":
		s, err := knob.ParseSetting(value)
		if err != nil {
			return true, err
		}
		d.TCP = append(d.TCP, s)
	case "sysctl":
		s, err := knob.ParseSysctl(value)
		if err != nil {
			return true, err
		}
		for i := range d.Sysctls {
			if d.Sysctls[i].Name == s.Name {
				return true, usagef("leave one of them out", "%s is set already", s.Name)
			}
		}
		d.Sysctls = append(d.Sysctls, s)
	case "fault":
		rule, err := policy.ParseFault(value)
		if err != nil {
			return true, err
		}
		d.Faults = append(d.Faults, document.FaultRule{Fault: rule, Source: "--fault"})
	case "dns":
		return true, f.setDNS(value)
	case "add-host":
		h, err := dns.ParseHost(value)
		if err != nil {
			return true, err
		}
		d.DNS.Hosts = append(d.DNS.Hosts, document.HostAddr(h))
	default:
		return false, nil
	}
	return true, nil
}

func (f *runFlags) setDNS(value string) error {
	d := &f.over.DNS
	if value == "none" {
		if d.Mode == document.DNSServers {
			return bothDNS(d)
		}
		d.Mode = document.DNSNone
		return nil
	}
	server, err := dns.ParseServer(value)
	if err != nil {
		return err
	}
	d.Servers = append(d.Servers, server)
	if d.Mode == document.DNSNone {
		return bothDNS(d)
	}
	d.Mode = document.DNSServers
	return nil
}

func bothDNS(d *document.DNS) error {
	return usagef("leave out one of them", "--dns none asks nobody, and --dns %v is to be asked", d.Servers[0].Addr())
}
