// Package bench measures a Kubernetes cluster through its API, any cluster, so that Wherry and upstream are measured by the same
// tool: a kubeconfig goes in, a table and JSON come out. Every load is bounded in count and time and cleans up after itself.
package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Target is the cluster to be measured.
type Target struct {
	// Config is copied for each worker, so that each has a connection of its own, as separate clients have.
	Config   *rest.Config
	Encoding string // json or protobuf
	Image    string // of the workload's pods; must be Wherry's sample app
	Progress io.Writer
	// Servers are processes on this machine whose CPU time is measured with each load: those that answer. None: it is not measured.
	Servers []int
}

// Result is one line of the table. Durations are in seconds in JSON.
type Result struct {
	Name    string  `json:"name"`
	Workers int     `json:"workers,omitempty"`
	Count   int     `json:"count"`
	Errors  int     `json:"errors"`
	Error   string  `json:"error,omitempty"` // the first one
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"perSecond"`
	P50     float64 `json:"p50,omitempty"`
	P90     float64 `json:"p90,omitempty"`
	P99     float64 `json:"p99,omitempty"`
	Max     float64 `json:"max,omitempty"`
	// ServerCPU and ClientCPU are CPU seconds for each operation, of the processes of Target.Servers and of this one. Where both share
	// processors, the client's bounds every rate, and only the server's tells what a server costs.
	ServerCPU float64 `json:"serverCPU,omitempty"`
	ClientCPU float64 `json:"clientCPU,omitempty"`
	Note      string  `json:"note,omitempty"`
}

// connections is how many HTTP/2 connections all workers share at most.
const connections = 64

// config is what client i connects with.
func (t Target) config(i int) *rest.Config {
	c := rest.CopyConfig(t.Config)
	c.QPS, c.RateLimiter = -1, nil
	c.UserAgent = fmt.Sprintf("wherry-bench/%d", i)
	c.ContentType = "application/json"
	c.AcceptContentTypes = "application/json"
	if t.Encoding != "json" {
		c.ContentType = "application/vnd.kubernetes.protobuf"
		c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	// A dialler of its own keeps client-go from sharing one cached transport among all.
	c.Dial = newDialer()
	return c
}

// clients makes one client for each worker.
func (t Target) clients(workers int) ([]kubernetes.Interface, error) {
	out := make([]kubernetes.Interface, workers)
	for i := range workers {
		if i >= connections {
			out[i] = out[i%connections]
			continue
		}
		c := t.config(i)
		cs, err := kubernetes.NewForConfig(c)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		out[i] = cs
	}
	return out, nil
}

func (t Target) say(format string, args ...any) {
	if t.Progress != nil {
		fmt.Fprintf(t.Progress, format+"\n", args...)
	}
}

// samples collects latencies of many workers.
type samples struct {
	mu     sync.Mutex
	took   []time.Duration
	errors int
	first  error
}

func (s *samples) add(d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errors++
		if s.first == nil {
			s.first = err
		}
		return
	}
	s.took = append(s.took, d)
}

func (s *samples) result(name string, workers int, elapsed time.Duration) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := Result{Name: name, Workers: workers, Count: len(s.took), Errors: s.errors, Seconds: elapsed.Seconds()}
	if s.first != nil {
		r.Error = s.first.Error()
	}
	if elapsed > 0 {
		r.Rate = float64(len(s.took)) / elapsed.Seconds()
	}
	slices.Sort(s.took)
	r.P50, r.P90, r.P99, r.Max = percentile(s.took, 50), percentile(s.took, 90), percentile(s.took, 99), percentile(s.took, 100)
	return r
}

// percentile of sorted durations, by the nearest rank, in seconds.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1].Seconds()
}

// each runs f for 0..count-1 on as many workers, and measures each call.
func each(ctx context.Context, name string, workers, count int, f func(ctx context.Context, worker, i int) error) Result {
	var s samples
	next := make(chan int)
	var wg sync.WaitGroup
	began := time.Now()
	for w := range workers {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				err := f(ctx, w, i)
				s.add(time.Since(start), err)
			}
		})
	}
	for i := range count {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return s.result(name, workers, time.Since(began))
}

// Table prints results for people.
func Table(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "what\tworkers\tcount\terrors\tseconds\tper s\tp50 ms\tp90 ms\tp99 ms\tmax ms\tserver CPU µs\tclient CPU µs\t")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.2f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t\n", r.Name, r.Workers, r.Count, r.Errors, r.Seconds, r.Rate, r.P50*1e3, r.P90*1e3, r.P99*1e3, r.Max*1e3, r.ServerCPU*1e6, r.ClientCPU*1e6)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", r.Name, r.Note)
		}
		if r.Error != "" {
			fmt.Fprintf(w, "%s: first of %d errors: %s\n", r.Name, r.Errors, r.Error)
		}
	}
	return nil
}

// unique makes names of one run differ from another's.
func unique() string { return fmt.Sprintf("%06x", rand.Uint32()&0xffffff) }
