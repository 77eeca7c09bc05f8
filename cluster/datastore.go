package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/encryption"
)

// Datastore says where the state is and how it is kept.
type Datastore struct {
	// Etcd is an external etcd; without URLs the embedded one is used.
	Etcd store.Endpoints
	// Prefix precedes every key. Empty: upstream's.
	Prefix string
	// EncryptionConfig is the file that says what is encrypted, and how. Empty: nothing is. ReloadEncryption follows the file.
	EncryptionConfig string
	ReloadEncryption bool
	// Quota is the size in bytes at which the embedded etcd stops taking writes. 0: its default.
	Quota int64
	// Snapshots are taken by the server itself.
	Snapshots Snapshots
	// Listen also serves the embedded etcd's API on a socket in the run directory, for whoever wants to look at the bytes.
	Listen bool
}

// external says that other API servers may write to the same etcd.
func (d Datastore) external() bool { return len(d.Etcd.URLs) > 0 }

// datastore is the open store, and what it stands on.
type datastore struct {
	*store.Store
	embedded   *etcd.Etcd             // nil with an external etcd
	client     *clientv3.Client       // belongs to embedded if that is there
	encryption *encryption.Encryption // nil: nothing is encrypted
	log        *slog.Logger
}

// openDatastore opens etcd and the store over it. serverID is this API server's identity; observe is store.Config's.
func openDatastore(ctx context.Context, s Server, serverID string, observe func(schema.GroupResource, string, time.Duration, error), log *slog.Logger) (_ *datastore, err error) {
	d := &datastore{log: log.With("part", "store")}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	c := store.Config{Prefix: s.Datastore.Prefix, SoleWriter: !s.Datastore.external(), Observe: observe, Log: d.log}
	if file := s.Datastore.EncryptionConfig; file != "" { // before etcd: nothing may be written readable
		if d.encryption, err = encryption.Open(encryption.Config{File: file, Reload: s.Datastore.ReloadEncryption, ServerID: serverID, Log: d.log}); err != nil {
			return nil, err
		}
		c.Transformer = d.encryption.Transformer
	}
	if s.Datastore.external() {
		d.client, err = store.Connect(ctx, s.Datastore.Etcd)
	} else {
		d.embedded, d.client, err = openEmbedded(ctx, s, log)
	}
	if err != nil {
		return nil, err
	}
	c.Client = d.client
	d.Store = store.Open(c)
	if d.encryption != nil {
		d.encryption.OnChange(d.Reread)
	}
	return d, nil
}

func openEmbedded(ctx context.Context, s Server, log *slog.Logger) (*etcd.Etcd, *clientv3.Client, error) {
	c := etcd.Config{Dir: s.Node.EtcdDir(), Quota: s.Datastore.Quota, Log: log.With("part", "etcd")}
	if s.Datastore.Listen {
		c.Listen = filepath.Join(s.Node.RunDir, "etcd.sock")
	}
	e, err := etcd.Start(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return e, e.Client(), nil
}

// run keeps the store's own work going, in p.
func (d *datastore) run(p *parts, s Server) {
	if d.embedded != nil {
		p.run("etcd maintenance", d.embedded.Maintain)
	}
	if s.Datastore.Snapshots.Every > 0 {
		p.run("snapshots", func(ctx context.Context) error { return d.takeSnapshots(ctx, s.snapshotDir(), s.Datastore.Snapshots) })
	}
	if d.encryption != nil {
		p.run("encryption configuration", d.encryption.Run)
	}
}

// check says whether objects can be read and written.
func (d *datastore) check(ctx context.Context) error { return d.Store.Check(ctx) }

// checkEncryption says whether the plugins that keep the keys answer.
func (d *datastore) checkEncryption(ctx context.Context) error {
	if d.encryption == nil {
		return nil
	}
	if err := d.encryption.Check(ctx); err != nil {
		return fmt.Errorf("encryption at rest: %w", err)
	}
	return nil
}

// forgetPages unmaps the database of an idle server.
func (d *datastore) forgetPages() {
	if d.embedded != nil {
		d.embedded.ForgetPages()
	}
}

// close ends what openDatastore began, in reverse.
func (d *datastore) close() {
	if d.Store != nil {
		d.Store.Close()
	}
	switch {
	case d.embedded != nil:
		if err := d.embedded.Close(); err != nil {
			d.log.Warn("close etcd", "error", err)
		}
	case d.client != nil:
		_ = d.client.Close()
	}
	if d.encryption != nil {
		d.encryption.Close()
	}
}
