package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"tcpbox/integration/testnet"
)

// The test binary plays the plugin, its stack processes, and the plugin that gives
// out addresses: each under its name, so that they meet as the specification has it.
func TestMain(m *testing.M) {
	Init()
	testnet.Init()
	switch filepath.Base(os.Args[0]) {
	case "tcpbox-cni":
		Main("CNI plugin tcpbox-cni test")
		os.Exit(0)
	case "pool":
		playPool()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// poolConf is what the pool is configured with: addresses are files in Dir, and
// Calls lists who called.
type poolConf struct {
	types.PluginConf
	IPAM struct {
		Dir    string `json:"dir"`
		Size   int    `json:"size"`
		Broken string `json:"broken"` // the verb that fails
		Six    bool   `json:"six"`
	} `json:"ipam"`
}

// playPool gives out 10.88.0.2 and those behind it, and their like of IPv6.
func playPool() {
	verb := func(name string, f func(c *poolConf, args *skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			c := new(poolConf)
			if err := json.Unmarshal(args.StdinData, c); err != nil {
				return err
			}
			calls, err := os.OpenFile(filepath.Join(c.IPAM.Dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			fmt.Fprintln(calls, name, args.ContainerID, args.IfName)
			calls.Close()
			if c.IPAM.Broken == name {
				return errors.New("the pool is broken")
			}
			return f(c, args)
		}
	}
	owner := func(args *skel.CmdArgs) string { return args.ContainerID + "@" + args.IfName }
	nothing := func(*poolConf, *skel.CmdArgs) error { return nil }
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: verb("ADD", func(c *poolConf, args *skel.CmdArgs) error {
			for i := range c.IPAM.Size {
				f, err := os.OpenFile(filepath.Join(c.IPAM.Dir, fmt.Sprintf("10.88.0.%d", i+2)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
				if err != nil {
					continue
				}
				fmt.Fprint(f, owner(args))
				f.Close()
				r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, IPs: []*types100.IPConfig{
					{Address: net.IPNet{IP: net.IPv4(10, 88, 0, byte(i+2)), Mask: net.CIDRMask(24, 32)}, Gateway: net.IPv4(10, 88, 0, 1)},
				}}
				if c.IPAM.Six {
					r.IPs = append(r.IPs, &types100.IPConfig{Address: net.IPNet{IP: net.ParseIP(fmt.Sprintf("fd00:88::%x", i+2)), Mask: net.CIDRMask(64, 128)}})
				}
				return types.PrintResult(r, c.CNIVersion)
			}
			return types.NewError(types.ErrTryAgainLater, "no address is left in the pool", "")
		}),
		Del: verb("DEL", func(c *poolConf, args *skel.CmdArgs) error {
			files, err := filepath.Glob(filepath.Join(c.IPAM.Dir, "10.88.*"))
			for _, f := range files {
				if who, _ := os.ReadFile(f); string(who) == owner(args) {
					err = errors.Join(err, os.Remove(f))
				}
			}
			return err
		}),
		Check: verb("CHECK", nothing), Status: verb("STATUS", nothing), GC: verb("GC", nothing),
	}, version.All, "pool")
}

// addresses are those that the pool has given out.
func (p *plant) addresses() string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "pool-data", "10.88.*"))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return strings.Join(files, " ")
}

// calls are those of the pool.
func (p *plant) calls() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "pool-data", "calls"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.ReplaceAll(strings.Join(strings.Split(strings.TrimSpace(string(text)), "\n"), ", "), "-"+p.own, "")
}
