package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"context"

	"wherry.dev/wherry/lifecycle"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func span(stage lifecycle.Stage, from, to time.Duration) Span {
	return Span{PodUID: "11111111-2222-3333-4444-555555555555", Namespace: "ns", Pod: "web", Stage: stage, Component: "kubelet", Node: "n1",
		Start: epoch.Add(from), End: epoch.Add(to), Outcome: OK}
}

func TestWaitingIsReplacedByWhatItBecame(t *testing.T) {
	c := NewCollector(nil)
	waiting := span(lifecycle.Schedule, 0, 0)
	waiting.End, waiting.Outcome, waiting.Message = time.Time{}, Waiting, "0/1 nodes are available: 1 Insufficient cpu."
	c.Record(waiting)
	c.Record(waiting)
	changed, got := c.Changed(waiting.PodUID)
	if len(got.Spans) != 1 {
		t.Fatalf("%d spans, want the one that waits", len(got.Spans))
	}
	c.Record(span(lifecycle.Schedule, 2*time.Second, 3*time.Second))
	<-changed
	got, _ = c.Get(waiting.PodUID)
	if len(got.Spans) != 1 || got.Spans[0].Outcome != OK || !got.Spans[0].Start.Equal(epoch) {
		t.Fatalf("spans %+v, want one that began with the wait", got.Spans)
	}
}

func TestBounds(t *testing.T) {
	c := NewCollector(nil)
	for i := range maxLive + 10 {
		s := span(lifecycle.Store, 0, time.Millisecond)
		s.PodUID, s.Pod = fmt.Sprint(i), fmt.Sprint("pod-", i)
		c.Record(s)
	}
	if _, ok := c.Find("ns", "pod-0"); ok || len(c.pods) != maxLive {
		t.Errorf("%d pods are kept, the oldest among them: %v", len(c.pods), ok)
	}
	for i := range maxGone + 10 {
		s := span(lifecycle.Forget, 0, time.Millisecond)
		s.PodUID = fmt.Sprint("gone-", i)
		c.Record(s)
	}
	if c.gone.Len() != maxGone {
		t.Errorf("%d gone pods are kept", c.gone.Len())
	}
	for range maxSpans + 10 {
		c.Record(span(lifecycle.Start, 0, time.Millisecond))
	}
	if got, _ := c.Get(span(lifecycle.Start, 0, 0).PodUID); len(got.Spans) != maxSpans || got.Dropped != 10 {
		t.Errorf("%d spans are kept, %d dropped", len(got.Spans), got.Dropped)
	}
}

func TestReadingOverHTTP(t *testing.T) {
	c := NewCollector(nil)
	c.Record(span(lifecycle.Store, 0, time.Millisecond))
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	var got Trace
	if w := get(PodPath("ns", "web")); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &got) != nil || len(got.Spans) != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, path := range []string{PodPath("ns", "other"), PodPath("other", "web") + "?uid=" + got.PodUID, Prefix + "nonsense"} {
		if w := get(path); w.Code != 404 {
			t.Errorf("GET %s: %d, want 404", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(http.MethodPost, spansPath, strings.NewReader("{")))
	if w.Code != 400 {
		t.Errorf("broken spans: %d, want 400", w.Code)
	}
}

func TestRemoteDeliversInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCollector(nil)
		posts := 0
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			posts++
			w := httptest.NewRecorder()
			c.ServeHTTP(w, r)
			return w.Result(), nil
		})}
		remote := NewRemote()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- remote.Run(ctx, client, "https://server", slog.New(slog.DiscardHandler)) }()
		for i := range 10 {
			remote.Record(span(lifecycle.Start, time.Duration(i), time.Second))
		}
		time.Sleep(2 * remoteDelay)
		synctest.Wait()
		if got, _ := c.Get(span(lifecycle.Start, 0, 0).PodUID); len(got.Spans) != 10 || posts != 1 {
			t.Errorf("%d spans in %d posts, want 10 in one", len(got.Spans), posts)
		}
		remote.Record(span(lifecycle.Ready, 0, time.Second))
		cancel() // what is queued is still sent
		<-done
		if got, _ := c.Get(span(lifecycle.Start, 0, 0).PodUID); len(got.Spans) != 11 {
			t.Errorf("%d spans after the end, want 11", len(got.Spans))
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWaterfall(t *testing.T) {
	ms := time.Millisecond
	pull := span(lifecycle.Pull, 20*ms, 80*ms)
	pull.Detail, pull.Attrs = "app", []Attr{{"image", "example/app:1"}}
	waiting := span(lifecycle.Ready, 90*ms, 0)
	waiting.End, waiting.Outcome, waiting.Message = time.Time{}, Waiting, "readiness probe: connection refused"
	failed := span(lifecycle.Sandbox, 10*ms, 20*ms)
	failed.Outcome, failed.Message = Failed, "no address"
	var out bytes.Buffer
	err := Waterfall(&out, Trace{PodUID: "u", Namespace: "ns", Pod: "web", Spans: []Span{span(lifecycle.Store, 0, 10*ms), failed, pull, waiting, span(lifecycle.Stop, time.Second, 2*time.Second)}},
		epoch.Add(100*ms), Style{Width: 80, ASCII: true})
	if err != nil {
		t.Fatal(err)
	}
	want := `pod ns/web  u

creation: 100ms, mostly pull 60ms (60%), ready 10ms (10%), sandbox 10ms (10%)
  store    kubelet@n1 #####                                               10ms
  sandbox  kubelet@n1      #####                                          10ms  failed: no address
  pull app kubelet@n1           ##############################            60ms
             image: example/app:1
  ready    kubelet@n1                                              #####  10ms  waiting
  waiting in ready for 10ms: readiness probe: connection refused

deletion: 1.00s, mostly stop 1.00s (100%)
  stop kubelet@n1 ######################################################    1.00s
`
	if squeeze(out.String()) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// squeeze makes runs of spaces and of # one, so that the golden is about what is said, not about columns.
func squeeze(s string) string {
	for _, c := range []string{" ", "#"} {
		for strings.Contains(s, c+c) {
			s = strings.ReplaceAll(s, c+c, c)
		}
	}
	return s
}
