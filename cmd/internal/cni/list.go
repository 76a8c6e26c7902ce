package cni

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// PluginName is the name of the plugin's binary, and its "type".
const PluginName = "tcpbox-cni"

// DefaultList is the list of plugins that Install places if it is given none.
//
//go:embed 10-tcpbox.conflist
var DefaultList []byte

// DefaultListName is the name of its file: runtimes take the first in the order of
// names.
const DefaultListName = "10-tcpbox.conflist"

// listed is a list of plugins as it lies in a file.
type listed struct {
	CNIVersion string            `json:"cniVersion"`
	Name       string            `json:"name"`
	Plugins    []json.RawMessage `json:"plugins"`
}

// CheckList reports everything that is wrong with a list of plugins for tcpbox-cni,
// joined. binDir is where the plugins are; they have to be there.
func CheckList(data []byte, binDir string) error {
	var l listed
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("it is no list of plugins: %w", err)
	}
	if l.Name == "" || len(l.Plugins) == 0 {
		return errors.New(`it is no list of plugins: "name" and "plugins" are needed`)
	}
	var errs []error
	var ports []string
	for i, raw := range l.Plugins {
		var p struct {
			Type         string          `json:"type"`
			Capabilities map[string]bool `json:"capabilities"`
			IPAM         struct {
				Type string `json:"type"`
			} `json:"ipam"`
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			errs = append(errs, fmt.Errorf("plugin %d: %w", i+1, err))
			continue
		}
		if p.Capabilities["portMappings"] {
			ports = append(ports, p.Type)
		}
		switch {
		case (p.Type == PluginName) != (i == 0):
			errs = append(errs, fmt.Errorf("plugin %d is %q: %s stands first, and once", i+1, p.Type, PluginName))
		case p.Type == "bandwidth":
			errs = append(errs, errors.New(`the plugin "bandwidth" needs a veth: leave it out, and declare the capability "bandwidth" on `+PluginName))
		}
		if p.Type == PluginName {
			errs = append(errs, checkOwn(raw, l))
		}
		for _, binary := range []string{p.Type, p.IPAM.Type} {
			errs = append(errs, isThere(binDir, binary))
		}
	}
	if len(ports) > 1 {
		errs = append(errs, fmt.Errorf("portMappings is declared by %s: by one of them alone", strings.Join(ports, " and ")))
	}
	return errors.Join(errs...)
}

// checkOwn is what ADD would say of the plugin's own part.
func checkOwn(raw json.RawMessage, l listed) error {
	m := map[string]any{}
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	m["name"], m["cniVersion"] = l.Name, l.CNIVersion
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	c, err := parse(text)
	if err == nil {
		err = c.settle()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", PluginName, err)
	}
	return nil
}

// isThere reports that a plugin is not where it is looked for.
func isThere(binDir, binary string) error {
	if binary == "" {
		return nil
	}
	if strings.ContainsRune(binary, '/') {
		return fmt.Errorf("%q is not the name of a plugin", binary)
	}
	info, err := os.Stat(filepath.Join(binDir, binary))
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("the plugin %q is not in %s", binary, binDir)
	}
	return nil
}
