package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/api/version"
)

func newVersionCommand() *cobra.Command {
	var output outputValue
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of Wherry and of the Kubernetes API it serves",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct{ Wherry, Kubernetes, Go string }{version.Wherry, version.Kubernetes, runtime.Version()}
			if output {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "wherry %s, Kubernetes %s, %s\n", v.Wherry, v.Kubernetes, v.Go)
			return err
		},
	}
	output.add(cmd)
	return cmd
}
