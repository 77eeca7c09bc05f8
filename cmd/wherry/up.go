package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster/local"
)

func newUpCommand() *cobra.Command {
	var o local.UpOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a cluster on this machine, or continue one",
		Long: "Make a cluster on this machine out of network namespaces, a node each, and wait until every node is Ready.\n" +
			"Called again it continues the same cluster: whatever still runs is left alone.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Nodes < 0 || o.Nodes > local.MaxNodes {
				return misused(cmd, "--nodes %d: a cluster on this machine has 1 to %d nodes", o.Nodes, local.MaxNodes)
			}
			began := time.Now()
			c, err := local.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			nodes := "its node is"
			if c.Nodes > 1 {
				nodes = fmt.Sprintf("its %d nodes are", c.Nodes)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cluster %s is up, %s Ready (%.2f s)\n\n  kubectl get nodes\n  wherry kubectl create -f examples/sample.yaml\n  wherry trace pod sample -f\n  wherry down --name %s\n",
				c.Name, nodes, time.Since(began).Seconds(), c.Name)
			return err
		},
	}
	addClusterFlags(cmd, &o.Name, &o.DataDir, &o.Kubeconfig)
	cmd.Flags().IntVar(&o.Nodes, "nodes", 0, "nodes, each a network namespace with its own runtime, kubelet, proxy and DNS (default: as it was, or 1)")
	cmd.Flags().StringArrayVar(&o.NodeArgs, "node-arg", nil, "further flag of every node's process, such as --node-arg=--drain-timeout=0")
	cmd.Flags().StringArrayVar(&o.ServerArgs, "server-arg", nil, "further flag of the server's process alone, such as --server-arg=--listen-etcd")
	return cmd
}

func newDownCommand() *cobra.Command {
	var name, dataDir, kubeconfig string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a cluster and every trace of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := local.Down(cmd.Context(), name, dataDir, kubeconfig)
			if errors.Is(err, local.ErrNoCluster) {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "there is no cluster %s\n", name)
				return err
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cluster %s is gone\n", name)
			return err
		},
	}
	addClusterFlags(cmd, &name, &dataDir, &kubeconfig)
	return cmd
}

func addClusterFlags(cmd *cobra.Command, name, dataDir, kubeconfig *string) {
	cmd.Flags().StringVar(name, "name", "default", "the cluster's name")
	cmd.Flags().StringVar(dataDir, "data-dir", "", "where the cluster's data is (default: below /var/lib/wherry)")
	cmd.Flags().StringVar(kubeconfig, "kubeconfig", "", "file that gets the cluster's entry (default: $KUBECONFIG or ~/.kube/config)")
}

func newListCommand() *cobra.Command {
	var output outputValue
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the clusters on this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := local.List()
			if err != nil {
				return err
			}
			if output {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tNODES\tRUNNING\tSERVER\tCONTEXT\tDATA")
			for _, s := range all {
				fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", s.Name, s.Nodes, s.Running, s.Server, s.Context, s.DataDir)
			}
			return t.Flush()
		},
	}
	output.add(cmd)
	return cmd
}

func newCheckCommand() *cobra.Command {
	var output outputValue
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look whether this machine is fit for a node, and say how to mend what is not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, bad := local.Check(), false
			if output {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(findings); err != nil {
					return err
				}
			}
			for _, f := range findings {
				bad = bad || !f.OK
				if output {
					continue
				}
				mark := "ok  "
				if !f.OK {
					mark = "FAIL"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-12s %s\n", mark, f.Check, f.Found)
				if f.Mend != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "      %s\n", f.Mend)
				}
			}
			if bad {
				return exitCode(1)
			}
			return nil
		},
	}
	output.add(cmd)
	return cmd
}
