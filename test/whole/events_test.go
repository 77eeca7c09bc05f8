package whole

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/test/outside"
	"wherry.dev/wherry/trace"
)

// checkEvents waits until the pod has exactly these events, in any order: they carry whole seconds, and a pod starts in less.
// A probe may have asked before the server listened.
func (s *story) checkEvents(t *testing.T, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	outside.Eventually(t, 5*time.Second, func() error { // events are sent beside the work
		list, err := s.Kube.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(s.pod.UID)})
		if err != nil {
			return err
		}
		var got []string
		for _, e := range list.Items {
			if e.Reason == "Unhealthy" && strings.HasPrefix(e.Message, "Readiness probe failed: ") {
				continue
			}
			from := e.Source.Component
			if from == "" {
				from = e.ReportingController
			}
			got = append(got, from+" "+e.Reason)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("events are %q, want %q", got, want)
		}
		return nil
	})
}

var creationEvents = []string{"default-scheduler Scheduled", "kubelet Pulled", "kubelet Created", "kubelet Started"}

func (s *story) events(t *testing.T) { s.checkEvents(t, creationEvents) }

func (s *story) readTrace(t *testing.T) trace.Trace {
	t.Helper()
	var got trace.Trace
	out := s.Wherry("trace", "pod", "web", "-n", "shop", "--name", s.Name, "--kubeconfig", s.Kubeconfig, "--uid", string(s.pod.UID), "-o", "json")
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("trace: %v: %s", err, out)
	}
	return got
}

// checkTrace waits until the trace has every one of stages, and looks whether its times are possible.
func (s *story) checkTrace(t *testing.T, stages []lifecycle.Stage, everywhere ...lifecycle.Stage) trace.Trace {
	t.Helper()
	var got trace.Trace
	outside.Eventually(t, 5*time.Second, func() error { // other nodes' spans come in batches
		got = s.readTrace(t)
		for _, stage := range stages {
			if !slices.ContainsFunc(got.Spans, func(p trace.Span) bool { return p.Stage == stage && p.Outcome == trace.OK }) {
				return fmt.Errorf("the trace has no finished %s", stage)
			}
		}
		for _, stage := range everywhere {
			for i := 1; i <= s.Nodes; i++ {
				if !slices.ContainsFunc(got.Spans, func(p trace.Span) bool { return p.Stage == stage && p.Node == s.NodeName(i) }) {
					return fmt.Errorf("the trace has no %s of node %d", stage, i)
				}
			}
		}
		return nil
	})
	if got.PodUID != string(s.pod.UID) {
		t.Errorf("the trace is of %s, the pod is %s", got.PodUID, s.pod.UID)
	}
	first := map[lifecycle.Stage]time.Time{}
	for _, p := range got.Spans {
		if p.Outcome != trace.Waiting && p.End.Before(p.Start) {
			t.Errorf("%s ends before it starts: %v, %v", p.Stage, p.Start, p.End)
		}
		if since := time.Since(p.Start); since < 0 || since > 10*time.Minute {
			t.Errorf("%s starts %v ago", p.Stage, since)
		}
		if old, ok := first[p.Stage]; !ok || p.Start.Before(old) {
			first[p.Stage] = p.Start
		}
	}
	// What must come after what, whatever else runs side by side.
	for _, order := range [][]lifecycle.Stage{
		{lifecycle.Request, lifecycle.Admit, lifecycle.Store, lifecycle.Schedule, lifecycle.AdmitOnNode, lifecycle.Sandbox, lifecycle.Start, lifecycle.Ready, lifecycle.Endpoints, lifecycle.Program},
		{lifecycle.Delete, lifecycle.Leave, lifecycle.Stop, lifecycle.Clean, lifecycle.Forget},
	} {
		for i := 1; i < len(order); i++ {
			a, aOK := first[order[i-1]]
			b, bOK := first[order[i]]
			if aOK && bOK && b.Before(a) {
				t.Errorf("%s starts %v before %s", order[i], a.Sub(b), order[i-1])
			}
		}
	}
	return got
}

func (s *story) traceOfCreation(t *testing.T) {
	s.checkTrace(t, lifecycle.Creation(), lifecycle.Program)
}
