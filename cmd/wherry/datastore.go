package main

import (
	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
	"wherry.dev/wherry/embedded/etcd"
)

// addDatastoreFlags adds the flags that say where the state is and how it is kept, named as upstream's.
func addDatastoreFlags(cmd *cobra.Command, d *cluster.Datastore) {
	f := cmd.Flags()
	f.StringSliceVar(&d.Etcd.URLs, "etcd-endpoints", nil, "an etcd that is there already (default: the embedded one)")
	f.StringVar(&d.Etcd.CAFile, "etcd-cafile", "", "certificates that those of the external etcd are checked against")
	f.StringVar(&d.Etcd.CertFile, "etcd-certfile", "", "certificate to show to the external etcd")
	f.StringVar(&d.Etcd.KeyFile, "etcd-keyfile", "", "key of that certificate")
	f.StringVar(&d.Prefix, "etcd-prefix", "/registry", "what every key begins with")
	f.BoolVar(&d.Listen, "listen-etcd", false, "serve the embedded etcd's API on the socket etcd.sock in the run directory")
	f.Int64Var(&d.Quota, "etcd-quota-bytes", etcd.DefaultQuota, "size at which the embedded etcd takes no more writes")
	f.DurationVar(&d.Snapshots.Every, "snapshot-every", 0, "take a snapshot of etcd whenever the newest is so old, such as 6h (default: never)")
	f.IntVar(&d.Snapshots.Keep, "snapshot-keep", 5, "of the snapshots that it has taken, the server keeps so many")
	f.StringVar(&d.Snapshots.Dir, "snapshot-dir", "", "where they are (default: the folder snapshots of the data directory)")
	f.StringVar(&d.EncryptionConfig, "encryption-provider-config", "", "file that says what is encrypted in etcd, and with which keys (EncryptionConfiguration)")
	f.BoolVar(&d.ReloadEncryption, "encryption-provider-config-automatic-reload", false, "follow that file as it changes")
}
