package trace

import (
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"wherry.dev/wherry/lifecycle"
)

// A collector that speaks OTLP over HTTP gets each ended span once, in the trace whose ID is the pod's UID.
func TestExportSpeaksOTLP(t *testing.T) {
	received := make(chan *collectorpb.ExportTraceServiceRequest, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		request := &collectorpb.ExportTraceServiceRequest{}
		if err := proto.Unmarshal(body, request); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		received <- request
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	if !ExportWanted() {
		t.Fatal("the standard variable is not honoured")
	}
	spans := make(chan Span, ExportQueue)
	c := NewCollector(spans)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Export(ctx, spans, slog.New(slog.DiscardHandler)) }()

	failed := span(lifecycle.Pull, time.Millisecond, time.Second)
	failed.Outcome, failed.Message, failed.Attrs = Failed, "no such image", []Attr{{"image", "example/app:1"}}
	waiting := span(lifecycle.Ready, 0, 0)
	waiting.Outcome = Waiting
	c.Record(waiting) // not ended: not sent
	c.Record(failed)
	select {
	case request := <-received:
		resource := request.ResourceSpans[0]
		if n := len(resource.ScopeSpans[0].Spans); n != 1 {
			t.Fatalf("%d spans, want the one that ended", n)
		}
		got := resource.ScopeSpans[0].Spans[0]
		if id := hex.EncodeToString(got.TraceId); id != "11111111222233334444555555555555" || got.Name != "pull" {
			t.Errorf("trace %s, span %s", id, got.Name)
		}
		if got.Status.Message != "no such image" || got.EndTimeUnixNano-got.StartTimeUnixNano != uint64(time.Second-time.Millisecond) {
			t.Errorf("span %v", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing arrives within 20 s")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
