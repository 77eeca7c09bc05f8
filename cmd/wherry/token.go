package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/cluster"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens by which machines join a cluster"}
	var access accessFlags
	var ttl time.Duration
	var description string
	var output outputValue
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and print the command that joins a machine with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, _, err := access.load("")
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return fmt.Errorf("client: %w", err)
			}
			if err := rest.LoadTLSFiles(config); err != nil {
				return fmt.Errorf("kubeconfig: %w", err)
			}
			join, err := cluster.CreateJoinToken(cmd.Context(), client, config.Host, config.CAData, description, ttl)
			if err != nil {
				return err
			}
			if output {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(join)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wherry agent --server %s --token %s --ca-hash %s\n", join.Server, join.Token, join.CAHash)
			return err
		},
	}
	access.add(create)
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it may be used; 0 for ever")
	create.Flags().StringVar(&description, "description", "", "what it is for")
	output.add(create)
	cmd.AddCommand(create)
	return cmd
}
