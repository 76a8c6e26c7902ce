package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	plugins "github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"tcpbox/tun"
)

// add makes the container's network. If it fails, nothing is left of what it made.
func add(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	if c.PrevResult != nil {
		return invalid("prevResult: the interface is made by this plugin, which stands first in its chain")
	}
	inside, err := openNetNS(args)
	if err != nil {
		return err
	}
	defer inside.Close()
	a := attachment{c.Name, args.ContainerID, args.IfName}
	s, err := takeSlot(c.StateDir, a)
	if err != nil {
		return err
	}
	defer s.free()
	if err := vacant(s, a, inside); err != nil {
		return err
	}
	r, err := c.attach(args, s, a, inside)
	if err != nil {
		return errors.Join(err, undo(c, s, a)) // errors.As finds the first
	}
	return types.PrintResult(r, c.CNIVersion)
}

// openNetNS opens the container's namespace, which must not be the plugin's.
func openNetNS(args *skel.CmdArgs) (plugins.NetNS, error) {
	bad := func(err string) error {
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("the container's namespace %q: %s", args.Netns, err), "")
	}
	override := args.NetnsOverride == "1" || strings.EqualFold(args.NetnsOverride, "true")
	if own, err := ns.CheckNetNS(args.Netns); !override && (err != nil || own) {
		if err != nil {
			return nil, err
		}
		return nil, bad("it is the host's")
	}
	inside, err := plugins.GetNS(args.Netns)
	if err != nil {
		return nil, bad(err.Error())
	}
	return inside, nil
}

// vacant reports that there is something already where the attachment is to be.
func vacant(s *slot, a attachment, inside plugins.NetNS) error {
	if st, err := s.load(); err != nil || st != nil {
		return types.NewError(codeExists, fmt.Sprintf("the container %q has the interface %q in the network %q already", a.ContainerID, a.IfName, a.Network), "delete it first")
	}
	return inside.Do(func(plugins.NetNS) error {
		if _, err := netlink.LinkByName(a.IfName); err == nil {
			return exists(a.IfName)
		}
		return nil
	})
}

// attach does all that ADD has to undo if it fails.
func (c *Conf) attach(args *skel.CmdArgs, s *slot, a attachment, inside plugins.NetNS) (*types100.Result, error) {
	st := &State{
		Network: a.Network, ContainerID: a.ContainerID, IfName: a.IfName, Pod: podName(args.Args), NetNS: args.Netns,
		HostDevice: a.hostDevice(), Sandbox: a.sandbox(), Conf: c.raw,
	}
	if info, err := os.Stat(args.Netns); err == nil {
		st.NetNSInode = inode(info)
	}
	if err := s.save(st); err != nil {
		return nil, err
	}
	given, err := invoke.DelegateAdd(context.Background(), c.IPAM.Type, args.StdinData, nil)
	if err != nil {
		return nil, err
	}
	r, err := types100.NewResultFromResult(given)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the answer of IPAM cannot be read: "+err.Error(), "")
	}
	w, err := newWiring(a, c.MTU, r)
	if err != nil {
		return nil, err
	}
	d, err := w.make(inside)
	if err != nil {
		return nil, err
	}
	defer d.close()
	aliases := []string{a.ContainerID}
	if st.Pod != "" {
		aliases = append(aliases, st.Pod)
	}
	p, err := start(order{
		Sandbox: a.sandbox(), Aliases: aliases, NetNS: args.Netns, MTU: c.MTU, Addresses: w.addresses, Policy: c.text,
	}, d, filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, err
	}
	st.PID, st.Start, st.Addresses = p.Pid, startOf(p.Pid), w.addresses
	if err := s.save(st); err != nil {
		return nil, err
	}
	return w.result(args.Netns, r, c), nil
}

// result is what ADD answers.
func (w *wiring) result(netns string, given *types100.Result, c *Conf) *types100.Result {
	const container = 1
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: w.hostDevice(), Mtu: w.mtu},
			{Name: w.IfName, Mtu: w.mtu, Sandbox: netns},
		},
		Routes: w.routes,
		DNS:    c.dns(),
	}
	if c.ReportMAC {
		r.Interfaces[container].Mac = w.madeUpMAC()
	}
	for i, a := range w.addresses {
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(container), Address: *alone(a), Gateway: given.IPs[i].Gateway})
	}
	return r
}

// undo takes back what attach has done.
func undo(c *Conf, s *slot, a attachment) error {
	st, err := s.load()
	return errors.Join(err, stop(a, st), awaitGone(a), invoke.DelegateDel(context.Background(), c.IPAM.Type, c.raw, nil), s.forget())
}

// del removes the container's network, whatever is left of it. It does all it can,
// and tells of all that it could not.
func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return remove(c, attachment{c.Name, args.ContainerID, args.IfName})
}

func remove(c *Conf, a attachment) error {
	s, err := takeSlot(c.StateDir, a)
	if err != nil {
		return err
	}
	defer s.free()
	defer sweepCgroups()
	st, _ := s.load() // what cannot be read is as good as nothing, and is removed
	err = errors.Join(stop(a, st), awaitGone(a))
	if c.IPAM.Type != "" {
		err = errors.Join(err, invoke.DelegateDel(context.Background(), c.IPAM.Type, c.raw, nil))
	}
	if err != nil {
		return err // it is remembered until all is gone
	}
	return s.forget()
}

// awaitGone returns when the host's interface, whose process has ended, is gone. The
// kernel takes a moment for that.
func awaitGone(a attachment) error {
	for range goneTries {
		var missing netlink.LinkNotFoundError
		if _, err := netlink.LinkByName(a.hostDevice()); errors.As(err, &missing) {
			return nil
		}
		pause()
	}
	return sweepHost(a)
}

// check compares what there is with what ADD has answered, and asks the stack
// process: a device alone says little.
func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return err
	}
	r, err := c.prevResult()
	if err != nil {
		return err
	}
	a := attachment{c.Name, args.ContainerID, args.IfName}
	w, err := wiringOf(a, args.Netns, r)
	if err != nil {
		return err
	}
	inside, err := openNetNS(args)
	if err != nil {
		return err
	}
	defer inside.Close()
	in, err := ask(a)
	if err != nil {
		return err
	}
	var ino uint64
	if info, err := os.Stat(args.Netns); err == nil {
		ino = inode(info)
	}
	if in.NetNS != ino {
		return unhealthy("the stack process serves another namespace, net:[%d] instead of net:[%d]", in.NetNS, ino)
	}
	if err := w.check(inside); err != nil {
		return err
	}
	return invoke.DelegateCheck(context.Background(), c.IPAM.Type, args.StdinData, nil)
}

// wiringOf finds in prevResult what ADD had made. Plugins that came later may have
// added to it.
func wiringOf(a attachment, netns string, r *types100.Result) (*wiring, error) {
	i := slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool { return i.Name == a.IfName && i.Sandbox == netns })
	if i < 0 {
		return nil, invalid("prevResult has no interface %q in %q", a.IfName, netns)
	}
	mine := &types100.Result{Routes: r.Routes}
	for _, ip := range r.IPs {
		if ip.Interface != nil && *ip.Interface == i {
			mine.IPs = append(mine.IPs, ip)
		}
	}
	return newWiring(a, 0, mine)
}

// gc removes the attachments of the network that are not among the valid ones. The
// addresses are freed by DEL of IPAM, for its GC frees none.
func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	all, err := attachments(c.StateDir, c.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range all {
		valid := slices.ContainsFunc(c.ValidAttachments, func(v types.GCAttachment) bool {
			return v.ContainerID == a.ContainerID && v.IfName == a.IfName
		})
		if !valid {
			errs = append(errs, collect(c, a))
		}
	}
	return errors.Join(errs...)
}

// collect is DEL of an attachment whose runtime has forgotten it, with the
// configuration of its ADD.
func collect(c *Conf, a attachment) error {
	use := c
	if st, err := loadState(slotPath(c.StateDir, a)); err == nil && st != nil {
		if saved, err := parse(st.Conf); err == nil {
			saved.StateDir = c.StateDir
			use = saved
		}
	}
	for key, value := range map[string]string{"CNI_CONTAINERID": a.ContainerID, "CNI_IFNAME": a.IfName, "CNI_NETNS": ""} {
		if err := os.Setenv(key, value); err != nil { // IPAM reads them
			return err
		}
	}
	return remove(use, a)
}

// status says whether ADD could be carried out now.
func status(args *skel.CmdArgs) error {
	unavailable := func(what string, err error) error {
		return types.NewError(errNotAvailable, what+": "+err.Error(), "")
	}
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if err := c.settle(); err != nil {
		return unavailable("the configuration", err)
	}
	f, err := os.OpenFile(tun.Path, os.O_RDWR, 0)
	if err != nil {
		return unavailable("no TUN device can be made", err)
	}
	f.Close()
	if err := writable(c.StateDir); err != nil {
		return unavailable("the state directory", err)
	}
	if err := invoke.DelegateStatus(context.Background(), c.IPAM.Type, args.StdinData, nil); err != nil {
		return unavailable("IPAM", err)
	}
	return nil
}

func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".status-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
