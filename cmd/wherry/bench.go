package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/bench"
	"wherry.dev/wherry/embedded/images"
)

func newBenchCommand() *cobra.Command {
	var access accessFlags
	var target bench.Target
	var output string
	cmd := &cobra.Command{Use: "bench", Short: "Measure any Kubernetes cluster through its API"}
	access.add(cmd)
	flags := cmd.PersistentFlags()
	flags.AddFlagSet(cmd.Flags())
	flags.StringVar(&target.Encoding, "encoding", "protobuf", "of requests and answers: protobuf or json")
	flags.IntSliceVar(&target.Servers, "server-pid", nil, "processes of the servers, on this machine, whose CPU time is measured as well (api, watch and memory), and their memory (memory)")
	flags.StringVar(&target.Image, "image", images.Sample.Name, "the workload's image, which must be Wherry's sample app")
	flags.StringVarP(&output, "output", "o", "", "also write the results as JSON to this file (- for standard output, instead of the table)")

	// run prepares the target, runs one benchmark and prints what it found, also when it failed half-way.
	run := func(cmd *cobra.Command, f func() ([]bench.Result, error)) error {
		config, _, err := access.load("")
		if err != nil {
			return err
		}
		target.Config, target.Progress = config, cmd.ErrOrStderr()
		results, err := f()
		if printErr := printResults(cmd.OutOrStdout(), output, results, func(w io.Writer) error { return bench.Table(w, results) }); printErr != nil {
			return printErr
		}
		return err
	}

	api := bench.APIOptions{}
	apiCommand := &cobra.Command{Use: "api", Short: "Create, get, list, patch and delete pods", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd, func() ([]bench.Result, error) { return bench.API(cmd.Context(), target, api) })
	}}
	apiCommand.Flags().IntSliceVar(&api.Workers, "workers", []int{1, 16, 64}, "clients at once, a round for each number")
	apiCommand.Flags().IntVar(&api.Count, "count", 2000, "operations of each kind in a round")

	watch := bench.WatchOptions{}
	watchCommand := &cobra.Command{Use: "watch", Short: "Events to many watchers", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd, func() ([]bench.Result, error) { return bench.Watch(cmd.Context(), target, watch) })
	}}
	watchCommand.Flags().IntVar(&watch.Watchers, "watchers", 100, "watchers")
	watchCommand.Flags().IntVar(&watch.Changes, "changes", 2000, "pods created")
	watchCommand.Flags().IntVar(&watch.Workers, "workers", 4, "clients that create them")
	watchCommand.Flags().DurationVar(&watch.Timeout, "timeout", time.Minute, "for all events to arrive")

	schedule := bench.ScheduleOptions{}
	scheduleCommand := &cobra.Command{Use: "schedule", Short: "Bind pods to registered fake nodes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd, func() ([]bench.Result, error) { return bench.Schedule(cmd.Context(), target, schedule) })
	}}
	scheduleCommand.Flags().IntVar(&schedule.Nodes, "fake-nodes", 1000, "nodes to register")
	scheduleCommand.Flags().IntVar(&schedule.Pods, "pods", 2000, "pods to create")
	scheduleCommand.Flags().IntVar(&schedule.Workers, "workers", 16, "clients that create them")
	scheduleCommand.Flags().DurationVar(&schedule.Timeout, "timeout", 2*time.Minute, "for all pods to be bound")

	pods := bench.PodOptions{}
	podsCommand := &cobra.Command{Use: "pods", Short: "Real pods: create to Running and Ready, delete to gone", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd, func() ([]bench.Result, error) { return bench.Pods(cmd.Context(), target, pods) })
	}}
	podsCommand.Flags().IntVar(&pods.Count, "count", 20, "pods one after the other")
	podsCommand.Flags().IntVar(&pods.Parallel, "parallel", 20, "pods at once, afterwards; 0 for none")
	podsCommand.Flags().DurationVar(&pods.Timeout, "timeout", 2*time.Minute, "for each wave")

	rollout := bench.RolloutOptions{}
	rolloutCommand := &cobra.Command{Use: "rollout", Short: "Requests lost while the pods behind a Service are replaced one by one", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd, func() ([]bench.Result, error) { return bench.Rollout(cmd.Context(), target, rollout) })
	}}
	rolloutCommand.Flags().IntVar(&rollout.Replicas, "replicas", 3, "pods behind the Service")
	rolloutCommand.Flags().IntVar(&rollout.Requests, "requests", 10000, "requests, each on a new connection")
	rolloutCommand.Flags().DurationVar(&rollout.For, "for", 20*time.Second, "time over which they are spread")
	rolloutCommand.Flags().StringVar(&rollout.Node, "from-node", "", "node that the requests come from (default: any)")
	rolloutCommand.Flags().DurationVar(&rollout.Timeout, "timeout", 5*time.Minute, "for all of it")

	memory := bench.MemoryOptions{}
	memoryCommand := &cobra.Command{Use: "memory", Short: "Memory of the servers' processes, full of pods and emptied again",
		Long: "Memory of the servers' processes (--server-pid), full of pods and emptied again. The pods are bound to nodes that are not there: controllers, which would\ncollect them, must be switched off meanwhile.",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, func() ([]bench.Result, error) { return bench.Memory(cmd.Context(), target, memory) })
		}}
	memoryCommand.Flags().IntVar(&memory.Pods, "pods", 10000, "pods to create")
	memoryCommand.Flags().IntVar(&memory.Workers, "workers", 16, "clients that create them")
	memoryCommand.Flags().DurationVar(&memory.Settle, "settle", 30*time.Second, "rest before each measurement")
	memoryCommand.Flags().DurationVar(&memory.After, "after", 5*time.Minute, "how long to follow the memory once the pods are gone")

	var duration time.Duration
	idleCommand := &cobra.Command{Use: "idle PID...", Short: "Memory and CPU of processes while nothing happens", Args: cobra.MinimumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		pids := make([]int, len(args))
		for i, a := range args {
			pid, err := strconv.Atoi(a)
			if err != nil {
				return fmt.Errorf("process id %q: %w", a, err)
			}
			pids[i] = pid
		}
		idle, err := bench.MeasureIdle(cmd.Context(), pids, duration)
		if err != nil {
			return err
		}
		return printResults(cmd.OutOrStdout(), output, idle, func(w io.Writer) error { return idleTable(w, idle) })
	}}
	idleCommand.Flags().DurationVar(&duration, "for", time.Minute, "how long to watch")

	cmd.AddCommand(apiCommand, watchCommand, scheduleCommand, podsCommand, rolloutCommand, memoryCommand, idleCommand)
	return cmd
}

func idleTable(w io.Writer, idle []bench.Idle) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "pid\tPSS MB\tprivate MB\tCPU %\tcommand\t")
	var pss, private int64
	var cpu float64
	for _, i := range idle {
		fmt.Fprintf(t, "%d\t%.1f\t%.1f\t%.2f\t%s\t\n", i.PID, float64(i.PSS)/1e6, float64(i.Private)/1e6, i.CPU*100, i.Command)
		pss, private, cpu = pss+i.PSS, private+i.Private, cpu+i.CPU
	}
	fmt.Fprintf(t, "all\t%.1f\t%.1f\t%.2f\t\t\n", float64(pss)/1e6, float64(private)/1e6, cpu*100)
	return t.Flush()
}

// printResults writes the table, and JSON where it is wanted.
func printResults(w io.Writer, output string, results any, table func(io.Writer) error) error {
	if output != "-" {
		if err := table(w); err != nil {
			return err
		}
	}
	if output == "" {
		return nil
	}
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if output == "-" {
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	return os.WriteFile(output, append(b, '\n'), 0o644)
}
