// Package components runs upstream's kube-controller-manager and kube-scheduler against Wherry's API server, and against upstream's own, under the same
// churn: what they log as an error or a warning here they must log there as well.
package components

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/churn"
	"wherry.dev/wherry/test/foreign/hollow"
	"wherry.dev/wherry/test/foreign/logs"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// duration of the churn against each API server: WHERRY_FOREIGN_CHURN, such as 1h.
func duration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WHERRY_FOREIGN_CHURN")
	if text == "" {
		return 3 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("WHERRY_FOREIGN_CHURN: %v", err)
	}
	return d
}

// parallel scenarios: as many as a machine of two cores does without waiting long.
const parallel = 8

// recorded is what upstream's components have been seen to log against upstream's API server, in longer runs than one test's.
const recorded = "testdata/upstream.txt"

// races are complaints about who came first, which either API server gives rise to, with what raced.
var races = map[string]string{
	`read version: N is not as new as written version: N for group resource`:        "a controller's own cache and its own write",
	`"Node already has a CIDR allocated. Releasing the new one"`:                    "two changes of a new node, each of which the allocator of ranges takes for the first",
	`the object has been modified; please apply your changes`:                       "two writers of one object",
	`unable to create new content in namespace NAME because it is being terminated`: "the end of a namespace and whoever works in it",
	`\" not found"`: "a change of an object and its end",
}

// isRace says whether a complaint is of the sort that depends on the moment alone, and of an object that the churn made.
func isRace(c logs.Complaint, seen *logs.Seen) bool {
	for text := range races {
		if strings.Contains(c.Text, text) && strings.Contains(seen.First, "churn-") {
			return true
		}
	}
	return false
}

// TestComponentsComplainNoMoreThanOverUpstream is the suite.
func TestComponentsComplainNoMoreThanOverUpstream(t *testing.T) {
	plane.Need(t)
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-apiserver", "etcd"} {
		build.Need(t, name)
	}
	ours, theirs := map[string]logs.Complaints{}, map[string]logs.Complaints{}
	only := os.Getenv("WHERRY_FOREIGN_ONLY")
	t.Run("wherry", func(t *testing.T) {
		if only == "upstream" {
			t.Skip("WHERRY_FOREIGN_ONLY=upstream")
		}
		p := plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers")
		ours = churned(t, p, duration(t))
		checkOwnLog(t, p.Processes[0].Log)
	})
	t.Run("upstream", func(t *testing.T) {
		if only == "wherry" {
			t.Skip("WHERRY_FOREIGN_ONLY=wherry")
		}
		theirs = churned(t, plane.StartUpstream(t, plane.Port), min(duration(t), 10*time.Minute))
	})
	known, err := logs.Recorded(recorded)
	if err != nil {
		t.Fatal(err)
	}
	for component, complaints := range ours {
		for _, c := range complaints.Beyond(theirs[component], known) {
			seen := complaints[c]
			if isRace(c, seen) {
				t.Logf("%s lost a race in another place than over upstream, %d times: %s", component, seen.Count, c)
				continue
			}
			t.Errorf("%s logs against Wherry only, %d times: %s\nsuch as: %s", component, seen.Count, c, seen.First)
		}
	}
	if err := logs.Extend(recorded, "What kube-controller-manager and kube-scheduler "+build.Kubernetes+" log against upstream's own API server under churn, with names and numbers taken out.",
		theirs["kube-controller-manager"], theirs["kube-scheduler"]); err != nil {
		t.Fatal(err)
	}
}

// churned runs both components and the churn against a plane, and returns the components' complaints.
func churned(t *testing.T, p *plane.Plane, d time.Duration) map[string]logs.Complaints {
	t.Helper()
	processes := []*plane.Process{p.StartManager("--v", "2"), p.StartScheduler("--v", "2")}
	dynamicClient, err := dynamic.NewForConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	nodes := hollow.New(p.Kube)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		nodes.Run(ctx, func(err error) { t.Error(err) })
	}()
	for i := range 4 {
		if err := nodes.Add(ctx, fmt.Sprintf("churn-node-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	cluster := churn.Cluster{Kube: p.Kube, Dynamic: dynamicClient, Nodes: nodes, Say: t.Logf}
	rounds, err := cluster.Run(ctx, d, parallel)
	cancel()
	<-kept
	if err != nil {
		t.Errorf("after %d rounds: %v", rounds, err)
	}
	out := map[string]logs.Complaints{}
	for _, process := range processes {
		if !process.Running() {
			t.Errorf("%s has ended: %s", process.Name, process.Tail(5))
		}
		complaints, err := logs.ReadFile(process.Log) // before they are stopped: an end has complaints of its own
		if err != nil {
			t.Fatal(err)
		}
		out[process.Name] = complaints
		n := 0
		for _, seen := range complaints {
			n += seen.Count
		}
		t.Logf("%s against %s: %d rounds, %d complaints of %d sorts", process.Name, p.Name, rounds, n, len(complaints))
	}
	return out
}

// checkOwnLog fails the test when Wherry itself logged an error.
func checkOwnLog(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for line := range strings.Lines(string(b)) {
		if (strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic")) && shown < 20 {
			shown++
			t.Errorf("Wherry logs: %s", strings.TrimSpace(line))
		}
	}
}
