package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/cluster"
	"wherry.dev/wherry/embedded/etcd"
)

func newSnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Save a cluster's state, look at what was saved, restore it"}
	cmd.AddCommand(newSnapshotSaveCommand(), newSnapshotListCommand(), newSnapshotRestoreCommand())
	return cmd
}

func newSnapshotSaveCommand() *cobra.Command {
	var access accessFlags
	var output outputValue
	cmd := &cobra.Command{
		Use:   "save [FILE]",
		Short: "Save a snapshot of the cluster's etcd, over its API",
		Long: "Save a snapshot of the cluster's etcd, over its API, as an administrator of the cluster. It is what `etcdctl snapshot save` writes.\n" +
			"FILE appears when the snapshot is whole and checked. Keep the folder pki of the server's data directory with it.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, _, err := access.load("")
			if err != nil {
				return err
			}
			path := etcd.SnapshotName(time.Now())
			if len(args) == 1 {
				path = args[0]
			}
			if err := saveSnapshot(cmd, config, path); err != nil {
				return err
			}
			s, err := etcd.InspectSnapshot(path)
			if err != nil {
				return err
			}
			if output {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: revision %d, %d keys, %d bytes\n", s.Path, s.Revision, s.Keys, s.Bytes)
			return nil
		},
	}
	access.add(cmd)
	cmd.Flags().VarP(&output, "output", "o", "json for machines")
	return cmd
}

func saveSnapshot(cmd *cobra.Command, config *rest.Config, path string) error {
	config.Timeout = 0
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	url, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	// follow says that it may take as long as it takes.
	r, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, url.JoinPath(cluster.SnapshotPath).String()+"?follow=true", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask for a snapshot: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return fmt.Errorf("ask for a snapshot: %s: %s", answer.Status, b)
	}
	return etcd.SaveSnapshot(answer.Body, path)
}

func newSnapshotListCommand() *cobra.Command {
	var dir string
	var output outputValue
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Check the snapshots in a directory, and say what they have",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := etcd.SnapshotFiles(dir)
			if err != nil {
				return err
			}
			all, bad := []etcd.Snapshot{}, error(nil)
			for _, f := range files {
				s, err := etcd.InspectSnapshot(f)
				if err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), err)
					bad = exitCode(1)
					continue
				}
				all = append(all, s)
			}
			if output {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(all); err != nil {
					return err
				}
				return bad
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "TAKEN\tREVISION\tKEYS\tBYTES\tFILE")
			for _, s := range all {
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", s.Taken.UTC().Format(time.RFC3339), s.Revision, s.Keys, s.Bytes, s.Path)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return bad
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/var/lib/wherry/node/snapshots", "where they are")
	cmd.Flags().VarP(&output, "output", "o", "json for machines")
	return cmd
}

func newSnapshotRestoreCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make a snapshot the state of a server that does not run",
		Long: "Make a snapshot the state of a server that does not run. The state that it had is kept beside it. What is in the snapshot appears as changed later than\n" +
			"everything before, so that no client takes its old copy for the new.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			abs, err := filepath.Abs(dataDir)
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(abs, "pki")); err != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: %s has no folder pki; copy the one of the cluster there before the first start, else its tokens and certificates are worth nothing\n", abs)
			}
			kept, err := cluster.RestoreSnapshot(cmd.Context(), cluster.Node{DataDir: abs}, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored %s into %s\n", args[0], cluster.Node{DataDir: abs}.EtcdDir())
			if kept != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "the state before is in %s: remove it when it is not needed any more\n", kept)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "/var/lib/wherry/node", "the server's data directory")
	return cmd
}
