package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster/local"
)

func newImagesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "images", Short: "Bring images onto a cluster's nodes"}
	var name, node, dataDir string
	load := &cobra.Command{
		Use:   "import ARCHIVE...",
		Short: "Import OCI or docker archives (tar, plain, gzip or zstd) on every node of a cluster on this machine",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return local.ImportImages(cmd.Context(), name, dataDir, node, args, func(node string, names []string) {
				for _, image := range names {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", node, image)
				}
			})
		},
	}
	load.Flags().StringVar(&name, "name", "default", "the cluster's name")
	load.Flags().StringVar(&dataDir, "data-dir", "", "where the cluster's data is (default: below /var/lib/wherry)")
	load.Flags().StringVar(&node, "node", "", "one node only")
	cmd.AddCommand(load)
	return cmd
}
