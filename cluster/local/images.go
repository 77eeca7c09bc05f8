package local

import (
	"context"
	"fmt"
	"os"

	"wherry.dev/wherry/embedded/containerd"
)

// ImportImages imports archives on every node of the cluster, or on one, and tells which images each node got.
func ImportImages(ctx context.Context, name, dataDir, node string, archives []string, tell func(node string, images []string)) error {
	if err := checkName(name); err != nil {
		return err
	}
	c, err := loadAt(name, dataDir)
	if err != nil {
		return err
	}
	found := false
	for i := 1; i <= c.Nodes; i++ {
		if node != "" && node != c.NodeName(i) {
			continue
		}
		found = true
		for _, archive := range archives {
			images, err := c.importOn(ctx, i, archive)
			if err != nil {
				return fmt.Errorf("node %s: %s: %w", c.NodeName(i), archive, err)
			}
			tell(c.NodeName(i), images)
		}
	}
	if !found {
		return fmt.Errorf("cluster %s has no node %s", name, node)
	}
	return nil
}

func (c *Cluster) importOn(ctx context.Context, i int, archive string) ([]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	store, err := containerd.OpenImages(c.node(i).RuntimeAddress())
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return store.Import(ctx, f, false)
}
