package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster/local"
	"wherry.dev/wherry/embedded/programs"
	"wherry.dev/wherry/pki"
)

func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--name CLUSTER] [--data-dir DIR] ...",
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

// clusterArgument turns leading flags --name and --data-dir into the context that `up` made, in the file that `up` wrote it to.
func clusterArgument(args []string) []string {
	values := map[string]string{}
	rest := args
	for len(rest) > 0 {
		flag, value, joined := strings.Cut(rest[0], "=")
		if flag != "--name" && flag != "--data-dir" || !joined && len(rest) < 2 {
			break
		}
		if rest = rest[1:]; !joined {
			value, rest = rest[0], rest[1:]
		}
		values[flag] = value
	}
	name, ok := values["--name"]
	if !ok {
		return args
	}
	out := []string{"--context", pki.ContextName(name)}
	given := slices.ContainsFunc(rest, func(a string) bool { return a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") })
	if file := local.Kubeconfig(name, values["--data-dir"]); file != "" && !given {
		out = append(out, "--kubeconfig", file)
	}
	return append(out, rest...)
}
