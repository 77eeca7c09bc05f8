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

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	path string // of the command that could not
}

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

// misused makes a usage error of one that only the command itself could find.
func misused(c *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), c.CommandPath()}
}

// run executes one command line and returns the exit code: 0 done, 1 failed, 2 wrong usage.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitCode
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "wherry: %v\nsee `%s --help`\n", err, usage.path)
		return 2
	default:
		fmt.Fprintf(os.Stderr, "wherry: %v\n", err)
		return 1
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "wherry",
		Short:         "A Kubernetes that one person can hold in the head",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		newUpCommand(), newDownCommand(), newListCommand(), newKubectlCommand(), newTraceCommand(),
		newServerCommand(), newAgentCommand(), newTokenCommand(), newImagesCommand(), newSnapshotCommand(), newCheckCommand(), newBenchCommand(), newVersionCommand(),
	)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{err, c.CommandPath()} })
	strict(root)
	return root
}

// strict makes usage errors of arguments that a command, or any below it, does not take. Cobra itself answers an unknown
// subcommand of a subcommand with help and success.
func strict(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misused(c, "unknown command %q", args[0])
			}
			return c.Help()
		}
	} else if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{err, c.CommandPath()}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strict(sub)
	}
}

// outputValue is the flag -o of commands whose answer machines may want.
type outputValue bool

func (o *outputValue) String() string {
	if o != nil && bool(*o) {
		return "json"
	}
	return ""
}
func (o *outputValue) Type() string { return "format" }
func (o *outputValue) Set(s string) error {
	if s != "json" && s != "" {
		return fmt.Errorf("use json")
	}
	*o = s == "json"
	return nil
}

func (o *outputValue) add(c *cobra.Command) {
	c.Flags().VarP(o, "output", "o", "json for machines")
}
