package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// exitCode is an error that only sets the exit code: what there is to say has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run executes one command line and returns the exit code: 0 done, 1 failed, 2 wrong usage.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "wherry",
		Short:         "A Kubernetes that one person can hold in the head",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		newUpCommand(), newDownCommand(), newListCommand(), newKubectlCommand(), newTraceCommand(),
		newServerCommand(), newAgentCommand(), newTokenCommand(), newImagesCommand(), newCheckCommand(), newBenchCommand(), newVersionCommand(),
	)
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		fmt.Fprintf(os.Stderr, "wherry: %v\nsee `%s --help`\n", err, c.CommandPath())
		return exitCode(2)
	})
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintf(os.Stderr, "wherry: %v\n", err)
		return 1
	}
}
