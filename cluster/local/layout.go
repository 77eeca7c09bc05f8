// Package local makes clusters on this machine: nodes out of network namespaces on a bridge, each with its own processes,
// mounts, cgroups and directories, and takes them away again without a trace. It starts the same binary's `server` and
// `agent` in those namespaces and speaks to them as any client does.
package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Where clusters live. A cluster's data directory is Data/NAME, or a link there to the one the user chose, so that the
// name alone is enough to find it.
const (
	dataRoot = "/var/lib/wherry"
	runRoot  = "/run/wherry"
)

// maxNameLength keeps the paths of the shims' sockets below the kernel's limit of 107 characters.
const maxNameLength = 18

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
func (c *Cluster) pkiDir() string          { return filepath.Join(c.dataDir, "node-1", "pki") }
func (c *Cluster) cgroupRoot() string      { return "/wherry/" + c.Name }
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
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster %q: %w", name, ErrNoCluster)
	} else if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", name, err)
	}
	c := &Cluster{dataDir: dataDir}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("cluster %q: %s/cluster.json: %w", name, dataDir, err)
	}
	if c.Name != name {
		return nil, fmt.Errorf("data directory %s belongs to cluster %q, not to %q: choose another --data-dir", dataDir, c.Name, name)
	}
	return c, nil
}

// create makes the data directory and the record of a new cluster.
func create(name, dataDir, subnet string, nodes int) (*Cluster, error) {
	home := filepath.Join(dataRoot, name)
	c := &Cluster{Name: name, Subnet: subnet, Nodes: nodes, Created: true, dataDir: home}
	if err := os.MkdirAll(dataRoot, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if dataDir != "" && dataDir != home {
		c.dataDir = dataDir
		entries, err := os.ReadDir(dataDir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fmt.Errorf("data directory: %w", err)
		case len(entries) > 0:
			return nil, fmt.Errorf("data directory %s holds files that are not a cluster's: choose an empty or new one", dataDir)
		default:
			c.Created = false
		}
		if old, err := os.Readlink(home); err == nil && old != dataDir {
			return nil, fmt.Errorf("cluster %q has its data in %s: leave out --data-dir, or choose another --name", name, old)
		} else if err != nil {
			if err := os.Symlink(dataDir, home); err != nil {
				return nil, fmt.Errorf("remember where cluster %q lives: %w", name, err)
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(c.dataDir, "logs"), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	return c, c.save()
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
			if _, err := load(e.Name(), ""); err == nil {
				out = append(out, e.Name())
			}
		}
	}
	return out, nil
}
