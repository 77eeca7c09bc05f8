package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/embedded/programs"
	"wherry.dev/wherry/pki"
)

func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--name CLUSTER] ...",
		Short:              "Run the kubectl that came with this binary",
		DisableFlagParsing: true, // they are kubectl's
		RunE: func(_ *cobra.Command, args []string) error {
			cache, err := os.UserCacheDir()
			if err != nil {
				cache = os.TempDir()
			}
			dir, err := programs.Unpack(filepath.Join(cache, "wherry"), programs.Kubectl)
			if err != nil {
				return err
			}
			args = clusterArgument(args)
			err = syscall.Exec(filepath.Join(dir, programs.Kubectl), append([]string{"kubectl"}, args...), os.Environ())
			return fmt.Errorf("run kubectl: %w", err)
		},
	}
}

// clusterArgument turns a leading --name CLUSTER into the context that `up` made.
func clusterArgument(args []string) []string {
	if len(args) == 0 {
		return args
	}
	if name, ok := strings.CutPrefix(args[0], "--name="); ok {
		return append([]string{"--context", pki.ContextName(name)}, args[1:]...)
	}
	if args[0] == "--name" && len(args) > 1 {
		return append([]string{"--context", pki.ContextName(args[1])}, args[2:]...)
	}
	return args
}
