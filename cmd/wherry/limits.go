package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"wherry.dev/wherry/cluster"
)

// addLimitFlags adds the flags about how much the API server does at once, as upstream's API server names them.
func addLimitFlags(cmd *cobra.Command, l *cluster.Limits) {
	f := cmd.Flags()
	f.IntVar(&l.MaxRequests, "max-requests-inflight", l.MaxRequests, "requests served at once, with --max-mutating-requests-inflight added to it; flow schemas and priority levels share the sum out")
	f.IntVar(&l.MaxMutatingRequests, "max-mutating-requests-inflight", l.MaxMutatingRequests, "added to --max-requests-inflight")
	f.DurationVar(&l.RequestTimeout, "request-timeout", l.RequestTimeout, "longest time that a request may take, watches and streams apart")
	f.Var(&secondsValue{&l.MinRequestTimeout}, "min-request-timeout", "shortest life of a watch that names none, in seconds; the longest is twice that")
}

// secondsValue is a time in whole seconds.
type secondsValue struct{ v *time.Duration }

func (s *secondsValue) String() string {
	if s.v == nil {
		return ""
	}
	return strconv.Itoa(int(*s.v / time.Second))
}

func (s *secondsValue) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1<<31 {
		return fmt.Errorf("%q: give a number of seconds above 0", text)
	}
	*s.v = time.Duration(n) * time.Second
	return nil
}

func (*secondsValue) Type() string { return "int" }
