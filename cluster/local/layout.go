// Package local makes clusters on this machine: nodes out of network namespaces on a bridge, each with its own processes,
// mounts, cgroups and directories, and takes them away again without a trace. It starts the same binary's `server` and
// `agent` in those namespaces and speaks to them as any client does.
package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Where clusters live. A cluster's data directory is Data/NAME, or a link there to the one the user chose, so that the
// name alone is enough to find it.
const (
	dataRoot = "/var/lib/wherry"
	runRoot  = "/run/wherry"

	cgroupParent = "/wherry" // in every hierarchy
)

// maxNameLength keeps the paths of the shims' sockets below the kernel's limit of 107 characters.
const maxNameLength = 18

// MaxNodes is how many nodes a cluster on one machine may have: as many as its subnet has addresses for, in round figures.
const MaxNodes = 200

var nameForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// Cluster is one cluster's record on disk, cluster.json in its data directory. It is written before anything else is made,
// so that whatever a crash leaves behind can be found and removed.
type Cluster struct {
	Name    string `json:"name"`
	Subnet  string `json:"subnet"`  // of the bridge that joins the nodes; .1 is this machine's side
	Nodes   int    `json:"nodes"`   // node-1 is the server
	Created bool   `json:"created"` // the data directory was made by us, so down removes the directory too

	KubeconfigPath string `json:"kubeconfig"` // the user's file that has our entry; "" for none

	dataDir string
}

// checkName explains what is wrong with a cluster's name.
func checkName(name string) error {
	if !nameForm.MatchString(name) || len(name) > maxNameLength {
		return fmt.Errorf("cluster name %q: use at most %d lower-case letters, digits and dashes, beginning and ending with a letter or digit", name, maxNameLength)
	}
	return nil
}

// NodeName is the name of the cluster's i-th node, from 1; it is unique among the clusters of a machine.
func (c *Cluster) NodeName(i int) string { return c.Name + "-" + strconv.Itoa(i) }

// DataDir is the directory that holds everything of the cluster which outlives a reboot.
func (c *Cluster) DataDir() string { return c.dataDir }

func (c *Cluster) runDir() string           { return filepath.Join(runRoot, c.Name) }
func (c *Cluster) nodeDataDir(i int) string { return filepath.Join(c.dataDir, "node-"+strconv.Itoa(i)) }
func (c *Cluster) nodeRunDir(i int) string  { return filepath.Join(c.runDir(), strconv.Itoa(i)) }
func (c *Cluster) logFile(i int) string {
	return filepath.Join(c.dataDir, "logs", "node-"+strconv.Itoa(i)+".log")
}
func (c *Cluster) cgroupRoot() string      { return cgroupParent + "/" + c.Name }
func (c *Cluster) nodeCgroup(i int) string { return c.cgroupRoot() + "/" + strconv.Itoa(i) }
func (c *Cluster) namespaceDir() string    { return filepath.Join(c.runDir(), "ns") }
func (c *Cluster) namespace(kind string, i int) string {
	return filepath.Join(c.namespaceDir(), kind+"-"+strconv.Itoa(i))
}

// save writes the record so that a crash leaves the old or the new one.
func (c *Cluster) save() error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.dataDir, "cluster.json")
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("record cluster %s: %w", c.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record cluster %s: %w", c.Name, err)
	}
	return nil
}

// ErrNoCluster says that there is no cluster of that name.
var ErrNoCluster = errors.New("no such cluster")

// load finds a cluster by name, at dataDir if that is given.
func load(name, dataDir string) (*Cluster, error) {
	if dataDir == "" {
		dataDir = filepath.Join(dataRoot, name)
		if to, err := os.Readlink(dataDir); err == nil {
			dataDir = to
		}
	}
	b, err := os.ReadFile(filepath.Join(dataDir, "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("cluster %q: %w", name, ErrNoCluster)
	} else if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	c := &Cluster{dataDir: dataDir}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("cluster %q: %s/cluster.json is damaged (%w): remove the data directory, or put the file back", name, dataDir, err)
	}
	if _, err := netip.ParsePrefix(c.Subnet); err != nil || c.Nodes < 1 || c.Nodes > MaxNodes {
		return nil, fmt.Errorf("cluster %q: %s/cluster.json is damaged: remove the data directory, or put the file back", name, dataDir)
	}
	if c.Name != name {
		return nil, fmt.Errorf("data directory %s belongs to cluster %q, not to %q: choose another --data-dir", dataDir, c.Name, name)
	}
	return c, nil
}

// loadAt is load for a directory as the user typed it.
func loadAt(name, dataDir string) (*Cluster, error) {
	if dataDir != "" {
		abs, err := filepath.Abs(dataDir)
		if err != nil {
			return nil, fmt.Errorf("data directory %s: %w", dataDir, err)
		}
		dataDir = abs
	}
	return load(name, dataDir)
}

// Kubeconfig returns the user's file that has the cluster's entry; empty when that is not known here, or not to this user.
func Kubeconfig(name, dataDir string) string {
	if checkName(name) != nil {
		return ""
	}
	c, err := loadAt(name, dataDir)
	if err != nil {
		return ""
	}
	return c.KubeconfigPath
}

// create makes the data directory and the record of a new cluster. What it made is gone again when it fails.
func create(name, dataDir, subnet string, nodes int) (_ *Cluster, err error) {
	home := filepath.Join(dataRoot, name)
	c := &Cluster{Name: name, Subnet: subnet, Nodes: nodes, Created: true, dataDir: home}
	if dataDir != "" {
		c.dataDir = dataDir
	}
	switch err := checkEmpty(c.dataDir); {
	case err == nil:
		c.Created = c.dataDir == home
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				f()
			}
		}
	}()
	if err := os.MkdirAll(dataRoot, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	undo = append(undo, func() { _ = os.Remove(dataRoot) }) // when no other cluster is there
	if c.dataDir != home {
		old, err := os.Readlink(home)
		switch {
		case err == nil && old == dataDir: // of an earlier start that got no further
		case err == nil:
			return nil, fmt.Errorf("cluster %q has its data in %s: leave out --data-dir, or choose another --name", name, old)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%s is in the way of cluster %q: choose another --name", home, name)
		default:
			if err := os.Symlink(dataDir, home); err != nil {
				return nil, fmt.Errorf("remember where cluster %q lives: %w", name, err)
			}
		}
		undo = append(undo, func() { _ = os.Remove(home) })
	}
	undo = append(undo, func() {
		for _, f := range []string{"logs", "cluster.json.new", "cluster.json"} {
			_ = os.Remove(filepath.Join(c.dataDir, f))
		}
		if c.Created {
			_ = os.Remove(c.dataDir)
		}
	})
	if err := os.MkdirAll(filepath.Join(c.dataDir, "logs"), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return c, c.save()
}

// checkEmpty explains what keeps a directory from becoming a cluster's; fs.ErrNotExist when it is not there. What a start that was
// interrupted at once leaves behind is no obstacle.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("data directory %s is a file: choose another --data-dir", dir)
	} else if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == "cluster.json.new" {
			continue
		}
		if logs, err := os.ReadDir(filepath.Join(dir, e.Name())); e.Name() == "logs" && err == nil && len(logs) == 0 {
			continue
		}
		return fmt.Errorf("data directory %s holds files that are not a cluster's: choose an empty or new one", dir)
	}
	return nil
}

// names lists the clusters that this machine knows.
func names() ([]string, error) {
	entries, err := os.ReadDir(dataRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var out []string
	for _, e := range entries {
		if checkName(e.Name()) == nil {
			switch _, err := load(e.Name(), ""); {
			case err == nil:
				out = append(out, e.Name())
			case errors.Is(err, fs.ErrPermission):
				return nil, fmt.Errorf("list clusters: %s cannot be read: run it as root, or with sudo", filepath.Join(dataRoot, e.Name()))
			}
		}
	}
	return out, nil
}
