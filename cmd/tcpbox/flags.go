package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"tcpbox"
	"tcpbox/policy/document"
	"tcpbox/stack/peer"
	"tcpbox/stack/statelog"
)

// words collects the values of flags in the order in which they were given,
// whichever flags they are: --allow and --deny are one list. Parsing comes
// after, so that every fault is found and keeps its hint.
type words struct{ all []word }

type word struct{ flag, value string }

// collector is the cli.Generic of one flag.
type collector struct {
	to   *words
	flag string
}

// Set implements flag.Value.
func (c *collector) Set(value string) error {
	c.to.all = append(c.to.all, word{c.flag, value})
	return nil
}

func (c *collector) String() string { return "" }

// flag makes the flag called name, whose values are listed under flag. An
// alias is a flag of its own: cli would copy the value of one to the other.
func (w *words) flag(name, flag string) cli.Flag {
	return &cli.GenericFlag{Name: name, Value: &collector{to: w, flag: flag}}
}

// runFlags is what the command line of tcpbox run says, and of tcpbox attach.
type runFlags struct {
	words  words
	quiet  bool
	config tcpbox.Config

	timeout time.Duration
	log     logFlags

	acceptFrom []netip.Prefix // of all ports that are published

	policyFile string            // of --policy
	fromFile   document.Document // what is in it
	over       document.Document // what the flags say, to be laid over that
	document   document.Document // both
}

// serving are the flags that are not about a guest.
func (f *runFlags) serving() []cli.Flag {
	var flags []cli.Flag
	for _, name := range []string{
		"policy", "net", "allow", "deny", "udp-timeout", "publish", "accept-from", "dns", "add-host", "peer", "tcp", "sysctl", "fault", "fault-seed", "log", "log-size", "log-files", "log-filter",
		"name", "mtu", "subnet4", "subnet6", "timeout",
	} {
		flags = append(flags, f.words.flag(name, name))
	}
	return append(flags,
		f.words.flag("p", "publish"),
		&cli.BoolFlag{Name: "no-ipv6", Destination: &f.config.NoIPv6},
		&cli.BoolFlag{Name: "trace-segments", Destination: &f.config.TraceSegments},
		&cli.BoolFlag{Name: "no-guest-leg", Destination: &f.config.NoGuestLeg},
		&cli.BoolFlag{Name: "quiet", Destination: &f.quiet},
		&cli.BoolFlag{Name: "q", Destination: &f.quiet},
	)
}

func (f *runFlags) list() []cli.Flag {
	flags := f.serving()
	for _, name := range []string{"hostname", "env", "workdir", "user", "keep-fd"} {
		flags = append(flags, f.words.flag(name, name))
	}
	for short, name := range map[string]string{"e": "env", "w": "workdir", "u": "user"} {
		flags = append(flags, f.words.flag(short, name))
	}
	return append(flags,
		&cli.BoolFlag{Name: "root", Destination: &f.config.Root},
		&cli.BoolFlag{Name: "linger", Destination: &f.config.Linger},
	)
}

// parse turns the words into the configuration, and reports every fault.
func (f *runFlags) parse() error {
	f.config.Env = os.Environ()
	return f.parseWith("run", f.set)
}

// parseWith is parse for the command called name, whose flags set sets.
func (f *runFlags) parseWith(name string, set func(flag, value string) error) error {
	var errs []error
	for _, w := range f.words.all {
		if err := set(w.flag, w.value); err != nil {
			errs = append(errs, flagError(name, w, err))
		}
	}
	for i := range f.config.Publish {
		f.config.Publish[i].From = f.acceptFrom
	}
	if err := f.settle(); err != nil {
		errs = append(errs, err)
	}
	if err := f.log.check(); err != nil {
		errs = append(errs, err)
	}
	if len(f.acceptFrom) > 0 && len(f.config.Publish) == 0 {
		errs = append(errs, usagef("it is about the ports of -p", "--accept-from has nothing to let anybody in to"))
	}
	return errors.Join(errs...)
}

// flagError says which flag an error is of. Typed errors keep their hints.
func flagError(command string, w word, err error) error {
	return flagErrorOf(command, "--"+w.flag, w, err)
}

// flagErrorOf is flagError of a word that stands in the value of another flag.
func flagErrorOf(command, flag string, w word, err error) error {
	var usage *usageError
	hint := hintOf(err)
	if errors.As(err, &usage) {
		hint = usage.hint
	}
	text := strip(err.Error())
	value := strconv.Quote(w.value)
	if _, rest, ok := strings.Cut(text, value+": "); ok {
		text = rest // what named the value before
	}
	if hint == "" {
		hint = fmt.Sprintf("see %q", "tcpbox help "+command)
	}
	return usagef(hint, "%s %s: %s", flag, value, text)
}

func (f *runFlags) set(flag, value string) (err error) {
	if taken, err := f.setPolicy(flag, value); taken {
		return err
	}
	c := &f.config
	switch flag {
	case "publish":
		var p tcpbox.Publish
		if p, err = tcpbox.ParsePublish(value); err == nil {
			c.Publish = append(c.Publish, p)
		}
	case "accept-from":
		var from netip.Prefix
		if from, err = tcpbox.ParseAcceptFrom(value); err == nil {
			f.acceptFrom = append(f.acceptFrom, from)
		}
	case "peer":
		var p peer.Spec
		if p, err = peer.ParseSpec(value); err == nil {
			c.Peers = append(c.Peers, p)
		}
	case "fault-seed":
		c.FaultSeed, err = parseSeed(value)
	case "log":
		f.log.to = value
		err = checkLogTarget(value)
	case "log-size":
		f.log.size, err = parseSize(value)
	case "log-files":
		f.log.files, err = parseInt(value, 1, mostLogFiles, "files")
	case "log-filter":
		f.log.filter, err = parseFilter([]string{value})
	case "name":
		c.Name = value
		err = checkName(value)
	case "hostname":
		c.Hostname = value
		err = checkHostname(value)
	case "mtu":
		c.MTU, err = parseInt(value, 1280, 65535, "bytes")
	case "subnet4":
		c.Subnet4, err = parsePrefix(value, "IPv4", netip.Addr.Is4)
	case "subnet6":
		c.Subnet6, err = parsePrefix(value, "IPv6", isIPv6)
	case "env":
		c.Env, err = addEnv(c.Env, value)
	case "workdir":
		c.Dir, err = parseDir(value)
	case "timeout":
		f.timeout, err = parseTimeout(value)
	case "udp-timeout":
		c.UDPTimeout, err = parseTimeout(value)
	case "user":
		c.User, err = parseUser(value)
	case "keep-fd":
		var fd int
		if fd, err = parseInt(value, 3, math.MaxInt32, "descriptor"); err == nil {
			c.KeepFDs = append(c.KeepFDs, fd)
		}
	default:
		err = fmt.Errorf("unknown flag")
	}
	return err
}

func parseInt(text string, least, most int, what string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || strings.Trim(text, "0123456789") != "" || n < least || n > most {
		return 0, usagef("", "not a number from %d to %d (%s)", least, most, what)
	}
	return n, nil
}

func parseSeed(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usagef("a seed is a number from 0 to 18446744073709551615", "not a seed")
	}
	return n, nil
}

func parsePrefix(text, family string, is func(netip.Addr) bool) (netip.Prefix, error) {
	const hint = "a subnet is written as 198.18.0.0/24 or fd00::/64"
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, usagef(hint, "not a subnet")
	}
	if !is(p.Addr()) {
		return p, usagef(hint, "not a subnet of %s", family)
	}
	if p.Masked() != p {
		return p, usagef("did you mean "+p.Masked().String()+"?", "it has host bits set")
	}
	return p, nil
}

// isIPv6 says whether an address is of IPv6 and of nothing else.
func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// longestTimeout keeps sums of durations from overflowing.
const longestTimeout = 100 * 365 * 24 * time.Hour

// isDuration says whether text is written as a duration, of any length.
func isDuration(text string) bool {
	_, err := time.ParseDuration(strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return '0'
		}
		return r
	}, text))
	return err == nil && text[0] != '-' && strings.Trim(text, "0123456789") != "" // of numbers, 0 needs no unit
}

func parseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if d > longestTimeout || err != nil && isDuration(text) {
		return 0, usagef(fmt.Sprintf("the longest is %dh", int(longestTimeout.Hours())), "too long")
	}
	if err != nil || d <= 0 {
		return 0, usagef("a duration is written as 30s, 5m or 1h30m", "not a duration above zero")
	}
	return d, nil
}

func parseUser(text string) (*tcpbox.User, error) {
	uidText, gidText, hasGID := strings.Cut(text, ":")
	uid, err := parseInt(uidText, 0, math.MaxInt32, "user id")
	if err != nil {
		return nil, usagef(`numbers only: "id -u NAME" tells the number of a user`, "not UID[:GID]")
	}
	if !hasGID {
		return &tcpbox.User{UID: uid, GID: uid}, nil
	}
	gid, err := parseInt(gidText, 0, math.MaxInt32, "group id")
	if err != nil {
		return nil, usagef(`numbers only: "id -g NAME" tells the number of a user's group`, "not UID[:GID]")
	}
	return &tcpbox.User{UID: uid, GID: gid}, nil
}

// addEnv adds NAME=VALUE, or NAME to say that it stays as it is, as docker
// does. A later one of the same name wins.
func addEnv(env []string, text string) ([]string, error) {
	name, _, hasValue := strings.Cut(text, "=")
	if name == "" || strings.ContainsRune(text, 0) {
		return env, usagef("it is NAME=VALUE, or NAME for the value it has here", "not a variable")
	}
	if !hasValue {
		return env, nil
	}
	kept := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, name+"=") {
			kept = append(kept, e)
		}
	}
	return append(kept, text), nil
}

func parseDir(text string) (string, error) {
	if text == "" {
		return "", usagef("without the flag it is the current directory", "it has no name")
	}
	abs, err := filepath.Abs(text)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	switch {
	case err != nil:
		return "", usagef("the guest sees the files that you see", "no such directory")
	case !info.IsDir():
		return "", usagef("", "not a directory")
	}
	return abs, nil
}

func checkHostname(text string) error {
	if text == "" || len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	}) {
		return usagef("letters, digits, hyphens and dots, at most 64", "not a hostname")
	}
	return nil
}

func checkName(text string) error {
	ok := text != "" && len(text) <= 64
	for i, r := range text {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '-' && r != '_' && r != '.') {
			ok = false
		}
	}
	if !ok {
		return usagef("letters, digits, and after the first also - _ and ., at most 64", "not a sandbox name")
	}
	if slices.Contains(statelog.FilterWords(), strings.ToLower(text)) {
		return usagef(`it is a word of the filters of "tcpbox log"; choose another`, "not a sandbox name")
	}
	return nil
}
