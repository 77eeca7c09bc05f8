package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"wherry.dev/wherry/pki"
)

// Down removes every trace of a cluster: processes, mounts, namespaces, interfaces, nftables tables, cgroups, files and
// the kubeconfig entry. A cluster that is half there, or not there, is removed as far as it is.
func Down(ctx context.Context, name, dataDir, kubeconfig string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("removing a cluster needs root: run it as root, or with sudo")
	}
	unlock, err := lockCluster(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if dataDir != "" {
		if dataDir, err = filepath.Abs(dataDir); err != nil {
			return err
		}
	}
	c, err := load(name, dataDir)
	if errors.Is(err, ErrNoCluster) {
		return errors.Join(err, forgetHalfMade(ctx, name))
	} else if err != nil {
		return err
	}
	if kubeconfig != "" {
		c.KubeconfigPath = kubeconfig
	}
	return c.remove(ctx)
}

// forgetHalfMade removes what a start leaves that ended before there was a record: nothing of it runs.
func forgetHalfMade(ctx context.Context, name string) error {
	unlock, err := lockMachine(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	home := filepath.Join(dataRoot, name)
	if to, err := os.Readlink(home); err == nil {
		if _, err := os.Stat(filepath.Join(to, "cluster.json")); err == nil {
			return nil // it lives; only not in the directory that was given
		}
		if err := os.Remove(home); err != nil {
			return fmt.Errorf("remove link to %s: %w", to, err)
		}
	} else if checkEmpty(home) == nil {
		if err := os.RemoveAll(home); err != nil {
			return fmt.Errorf("remove data directory: %w", err)
		}
	}
	_ = os.Remove(dataRoot)
	return nil
}

// remove goes on after an error, so that as little as possible stays; the record goes last, so that down can be
// called again.
func (c *Cluster) remove(ctx context.Context) error {
	var errs []error
	// The data goes away, so nobody needs to close his books: everything is killed at once.
	errs = append(errs, c.killAll(ctx))
	errs = append(errs, c.removeCgroups(ctx))
	errs = append(errs, c.removeNamespaces())
	errs = append(errs, c.removeNetwork())
	if c.KubeconfigPath != "" {
		errs = append(errs, pki.RemoveFromKubeconfig(c.KubeconfigPath, c.context()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cluster %s: %w", c.Name, err)
	}
	if err := os.RemoveAll(c.runDir()); err != nil {
		return fmt.Errorf("remove cluster %s: %w", c.Name, err)
	}
	entries, err := os.ReadDir(c.dataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cluster %s: %w", c.Name, err)
	}
	for _, e := range entries {
		if e.Name() != "cluster.json" {
			errs = append(errs, os.RemoveAll(filepath.Join(c.dataDir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove data of cluster %s: %w", c.Name, err)
	}
	unlock, err := lockMachine(ctx)
	if err != nil {
		return fmt.Errorf("remove data of cluster %s: %w", c.Name, err)
	}
	defer unlock()
	errs = append(errs, os.RemoveAll(filepath.Join(c.dataDir, "cluster.json")))
	if c.Created {
		errs = append(errs, os.Remove(c.dataDir))
	}
	if home := filepath.Join(dataRoot, c.Name); home != c.dataDir {
		errs = append(errs, os.RemoveAll(home)) // the link
	}
	if all, err := names(); err == nil && len(all) == 0 { // another that has claimed its name may be about to make its own below these
		_, _ = os.Remove(dataRoot), os.Remove(runRoot)
		removeCgroupParents()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove data of cluster %s: %w", c.Name, err)
	}
	return nil
}
