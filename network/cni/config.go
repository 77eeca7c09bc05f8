package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// ProgramName is the plugin's "type" in a CNI configuration, and the name of its program file.
const ProgramName = "wherry-cni"

// configFile is where WriteConfig puts the network; "10-" because runtimes take the first file in lexical order.
const configFile = "10-wherry.conflist"

// Network describes the built-in pod network of one node.
type Network struct {
	// Name of the CNI network; default "wherry".
	Name string
	// PodCIDRs of the node, at most one for each family, as in spec.podCIDRs. Required.
	PodCIDRs []string
	// MTU of the pods' interfaces; 0 takes the smallest on the node's default route and its routes to other nodes, or the kernel's default.
	MTU int
	// StateDir holds the reservations; it must outlive the process. Required, absolute.
	StateDir string
	// HostPortTable is the nftables table (family inet) for host ports; default "wherry-hostports".
	HostPortTable string
}

const (
	defaultName          = "wherry"
	defaultHostPortTable = "wherry-hostports"
)

// pluginConf is the plugin's part of a configuration as a runtime hands it over on stdin.
type pluginConf struct {
	types.NetConf
	PodCIDRs      []string `json:"podCIDRs"`
	MTU           int      `json:"mtu,omitempty"`
	StateDir      string   `json:"stateDir"`
	HostPortTable string   `json:"hostPortTable,omitempty"`

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings,omitempty"`
		Bandwidth    *bandwidth    `json:"bandwidth,omitempty"`
	} `json:"runtimeConfig,omitempty"`

	cidrs []netip.Prefix
}

// portMapping is one entry of the "portMappings" capability (CNI CONVENTIONS.md).
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// bandwidth is the "bandwidth" capability: rates in bits per second, bursts in bits, seen from the pod.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

// WriteConfig puts the network's configuration into dir (the runtime's CNI conf_dir) in one step, or leaves it
// alone when it is there already. The runtime reports its network as ready from then on, so call it when the node knows its podCIDRs.
func WriteConfig(dir string, n Network) error {
	if len(n.PodCIDRs) == 0 {
		return errors.New("write CNI configuration: the node has no podCIDR")
	}
	if !filepath.IsAbs(n.StateDir) {
		return fmt.Errorf("write CNI configuration: state directory %q is not absolute", n.StateDir)
	}
	if n.Name == "" {
		n.Name = defaultName
	}
	plugin := map[string]any{
		"type": ProgramName, "podCIDRs": n.PodCIDRs, "stateDir": n.StateDir,
		"capabilities": map[string]bool{"portMappings": true, "bandwidth": true},
	}
	if n.MTU > 0 {
		plugin["mtu"] = n.MTU
	}
	if n.HostPortTable != "" {
		plugin["hostPortTable"] = n.HostPortTable
	}
	one, err := json.Marshal(plugin)
	if err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if _, err := parseConf(withHeader(one, n.Name)); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	text, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.1.0", "name": n.Name, "plugins": []map[string]any{plugin},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	path := filepath.Join(dir, configFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.MkdirAll(n.StateDir, 0o755); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	temp := filepath.Join(dir, ".wherry.conflist.tmp") // no runtime reads a file with this ending
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("write CNI configuration: %w", err), os.Remove(temp))
	}
	return nil
}

// withHeader turns a plugin entry of a list into what the runtime gives to that plugin.
func withHeader(plugin []byte, name string) []byte {
	header, _ := json.Marshal(name) // a string always marshals
	return append([]byte(`{"cniVersion":"1.1.0","name":`+string(header)+`,`), plugin[1:]...)
}

// parseConf reads and checks the configuration. Its errors carry CNI's code for an invalid one.
func parseConf(stdin []byte) (*pluginConf, error) {
	c := &pluginConf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode network configuration", err.Error())
	}
	if len(c.PodCIDRs) == 0 {
		return nil, invalid("podCIDRs is empty: the node has no pod addresses to give")
	}
	if c.StateDir == "" || !filepath.IsAbs(c.StateDir) {
		return nil, invalid(fmt.Sprintf("stateDir %q is not an absolute path", c.StateDir))
	}
	var seen [2]bool
	for _, text := range c.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, invalid(err.Error())
		}
		family := 0
		if p.Addr().Is6() {
			family = 1
		}
		if seen[family] {
			return nil, invalid("more than one podCIDR of one address family: " + strings.Join(c.PodCIDRs, ", "))
		}
		if seen[family] = true; p.Bits() > p.Addr().BitLen()-2 {
			return nil, invalid(fmt.Sprintf("podCIDR %s has no room for a pod", p))
		}
		c.cidrs = append(c.cidrs, p.Masked())
	}
	if c.MTU < 0 || c.MTU > 65535 {
		return nil, invalid(fmt.Sprintf("mtu %d is out of range", c.MTU))
	}
	if c.HostPortTable == "" {
		c.HostPortTable = defaultHostPortTable
	}
	for _, m := range c.RuntimeConfig.PortMappings {
		if _, err := m.protocol(); err != nil {
			return nil, invalid(err.Error())
		}
		if m.HostIP != "" {
			if _, err := netip.ParseAddr(m.HostIP); err != nil {
				return nil, invalid(fmt.Sprintf("hostIP of port %d: %v", m.HostPort, err))
			}
		}
	}
	return c, nil
}

func invalid(msg string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration", msg)
}

// stateDir is the directory of this network's reservations.
func (c *pluginConf) stateDir() string { return filepath.Join(c.StateDir, c.Name) }

// portsAsked reports whether any mapping really names a host port; kubelets also send entries without one.
func (c *pluginConf) portsAsked() bool {
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort != 0 {
			return true
		}
	}
	return false
}
