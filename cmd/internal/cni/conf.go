package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"tcpbox/policy"
	"tcpbox/policy/document"
)

// Defaults of the configuration.
const (
	DefaultStateDir  = "/run/tcpbox-cni"
	DefaultPolicyDir = "/etc/tcpbox/policies"
	DefaultMTU       = 1500 // bytes

	// PolicyAnnotation is the annotation by which a pod chooses one of the
	// policies that Conf.Selectable names.
	PolicyAnnotation = "tcpbox.dev/policy"

	annotations = "io.kubernetes.cri.pod-annotations"
	leastMTU    = 1280 // RFC 8200, section 5
	maxPolicy   = 1 << 20
)

// Conf is the network configuration, as the runtime hands it over. Keys that it
// does not name are others'.
type Conf struct {
	types.PluginConf

	// Uplink is where connections go on: "tun", which is the default.
	Uplink string `json:"uplink"`

	// MTU of the container's interface and of the host's, in bytes.
	MTU int `json:"mtu"`

	// Policy is a policy document, or the name of one in PolicyDir. Without it
	// everything is allowed.
	Policy    json.RawMessage `json:"policy"`
	PolicyDir string          `json:"policyDir"`

	// Selectable are the policies of PolicyDir that a container may choose by
	// PolicyAnnotation, or by "policy" in args.cni. None: it may choose none.
	Selectable []string `json:"selectable"`

	StateDir string `json:"stateDir"`

	// ReportMAC has the answer give the container's interface a hardware address,
	// which it has not, for runtimes that read no answer without one: podman 4.
	ReportMAC bool `json:"reportMAC"`

	RuntimeConfig struct {
		Annotations map[string]string `json:"io.kubernetes.cri.pod-annotations"`
		DNS         *runtimeDNS       `json:"dns"`
		Bandwidth   bandwidth         `json:"bandwidth"`
	} `json:"runtimeConfig"`

	Args struct {
		CNI struct {
			Policy string `json:"policy"`
		} `json:"cni"`
	} `json:"args"`

	raw      []byte
	document document.Document // what Policy comes to
	text     string            // the same, printed; empty: everything is allowed
}

// runtimeDNS is the capability "dns" as CRI spells it.
type runtimeDNS struct {
	Servers, Searches, Options []string
}

// bandwidth is the capability of that name: bits per second into the container, and
// out of it; zero: as many as there are. Bursts are left to the queues of the lines.
type bandwidth struct {
	IngressRate, EgressRate uint64
}

// lines are the faults that the limits come to.
func (b bandwidth) lines() (all []document.FaultRule, err error) {
	for _, l := range []struct {
		rate  uint64
		where string
	}{{b.IngressRate, "in"}, {b.EgressRate, "out"}} {
		if l.rate == 0 {
			continue
		}
		f, err := policy.ParseFault(fmt.Sprintf("rate %dbit %s", l.rate, l.where))
		if err != nil {
			return nil, invalid("bandwidth of %d bits per second: %v", l.rate, err)
		}
		all = append(all, document.FaultRule{Fault: f})
	}
	return all, nil
}

func invalid(format string, args ...any) *types.Error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

func unsupported(key, value, why string) *types.Error {
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("unsupported: %q: %q", key, value), why)
}

// parse reads the configuration. The policy is left to settle.
func parse(stdin []byte) (*Conf, error) {
	c := &Conf{raw: stdin}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration cannot be read: "+err.Error(), "")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read: "+err.Error(), "")
	}
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.PolicyDir == "" {
		c.PolicyDir = DefaultPolicyDir
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if !filepath.IsAbs(c.StateDir) {
		return nil, invalid("stateDir %q is not an absolute path", c.StateDir)
	}
	return c, nil
}

// settle reports what is wrong with a configuration for ADD and CHECK, and reads
// the policy. DEL does without: it must work whatever has become of a file.
func (c *Conf) settle() error {
	switch {
	case c.Uplink != "" && c.Uplink != "tun":
		return unsupported("uplink", c.Uplink, "the uplink is \"tun\"")
	case c.MTU < leastMTU || c.MTU > 65535:
		return invalid("mtu %d is not between %d and 65535", c.MTU, leastMTU)
	case c.IPAM.Type == "":
		return invalid("there is no \"ipam\": name a plugin that gives out addresses, such as {\"type\": \"host-local\", …}")
	}
	for capability, declared := range c.Capabilities {
		why, known := refusedCapabilities[capability]
		if declared && known {
			return unsupported("capabilities", capability, why)
		}
	}
	if err := c.readPolicy(); err != nil {
		return err
	}
	lines, err := c.RuntimeConfig.Bandwidth.lines()
	if err != nil || len(lines) == 0 {
		return err
	}
	c.document.Faults = append(c.document.Faults, lines...)
	c.text = c.document.String()
	return nil
}

// refusedCapabilities are those that would be taken for granted if they were
// ignored.
var refusedCapabilities = map[string]string{
	"portMappings": "chain the plugin portmap, and let it alone declare them",
	"mac":          "a TUN device has no hardware address",
}

// readPolicy finds the policy that is in force: the one that the container has
// chosen, if it may, or the network's.
func (c *Conf) readPolicy() error {
	chosen := c.Args.CNI.Policy
	from := "args.cni.policy"
	if a, ok := c.RuntimeConfig.Annotations[PolicyAnnotation]; ok && chosen == "" {
		chosen, from = a, "the annotation "+PolicyAnnotation
	}
	if chosen != "" {
		if !slices.Contains(c.Selectable, chosen) {
			return invalid("%s: the policy %q may not be chosen: it is not in \"selectable\"", from, chosen)
		}
		return c.readNamed(chosen)
	}
	if len(c.Policy) == 0 || string(c.Policy) == "null" {
		return nil
	}
	var name string
	if json.Unmarshal(c.Policy, &name) == nil {
		return c.readNamed(name)
	}
	return c.takePolicy("policy", c.Policy)
}

var policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// readNamed reads a policy of PolicyDir.
func (c *Conf) readNamed(name string) error {
	if !policyName.MatchString(name) {
		return invalid("%q is not the name of a policy: letters, digits, and '_', '.', '-' but at the beginning", name)
	}
	for _, ext := range []string{".yaml", ".yml", ".json"} {
		path := filepath.Join(c.PolicyDir, name+ext)
		data, err := readRegular(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return types.NewError(types.ErrIOFailure, fmt.Sprintf("the policy %q cannot be read: %v", name, err), "")
		}
		return c.takePolicy(path, data)
	}
	return invalid("there is no policy %q in %s: it is looked for with .yaml, .yml and .json", name, c.PolicyDir)
}

func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxPolicy:
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxPolicy)
	}
	return os.ReadFile(path)
}

func (c *Conf) takePolicy(source string, data []byte) error {
	d, err := document.Parse(source, data)
	switch {
	case err != nil:
		return types.NewError(types.ErrInvalidNetworkConfig, "the policy is wrong", faults(err))
	case d.DNS.Mode != document.DNSUnsaid || len(d.DNS.Hosts) > 0:
		return invalid("%s: dns: a container's names are its runtime's: leave it out", source)
	case d.Net == nil && len(d.Rules) > 0:
		return invalid("%s: say what becomes of the rest: net: none, public or all", source)
	}
	c.document, c.text = d, d.String()
	return nil
}

// faults are those of a document, with what to write instead.
func faults(err error) string {
	var all []string
	for _, e := range flatten(err) {
		text := e.Error()
		var fault *document.Fault
		if errors.As(e, &fault) && fault.Hint != "" {
			text += " (" + fault.Hint + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// dns is what the result says of names.
func (c *Conf) dns() types.DNS {
	d := c.DNS
	if r := c.RuntimeConfig.DNS; r != nil {
		d.Nameservers, d.Search, d.Options = r.Servers, r.Searches, r.Options
	}
	return d
}

// prevResult is what the plugin before has made, or ADD before CHECK.
func (c *Conf) prevResult() (*types100.Result, error) {
	if c.PrevResult == nil {
		return nil, invalid("there is no prevResult")
	}
	r, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult cannot be read: "+err.Error(), "")
	}
	return r, nil
}

// podName is NAMESPACE/POD, of what a runtime says of a pod in CNI_ARGS; empty if it
// says nothing. Without a namespace it is the pod's name alone.
func podName(args string) string {
	var namespace, name string
	for word := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		}
	}
	word := name
	if namespace != "" && name != "" {
		word = namespace + "/" + name
	}
	if !podWord.MatchString(word) {
		return ""
	}
	return word
}

// podWord is what podName may be: it goes into a file of words, and to terminals.
var podWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,252})?$`)
