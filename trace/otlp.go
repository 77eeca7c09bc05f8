package trace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// ExportWanted reports whether the standard variables name a collector (OTEL_EXPORTER_OTLP_ENDPOINT and friends).
func ExportWanted() bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

const (
	exportDelay = time.Second
	exportBatch = 512
)

// ExportQueue is the buffer that the channel between Collector and Export should have.
const ExportQueue = 4096

// Export sends spans by OTLP over HTTP to where the standard variables say, until ctx ends.
func Export(ctx context.Context, spans <-chan Span, log *slog.Logger) error {
	client := otlptracehttp.NewClient()
	if err := client.Start(ctx); err != nil {
		return fmt.Errorf("start OTLP export: %w", err)
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = client.Stop(stop)
	}()
	for {
		var batch []Span
		select {
		case <-ctx.Done():
			return nil
		case s := <-spans:
			batch = append(batch, s)
		}
		timer := time.NewTimer(exportDelay)
		for more := true; more && len(batch) < exportBatch; {
			select {
			case s := <-spans:
				batch = append(batch, s)
			case <-timer.C:
				more = false
			case <-ctx.Done():
				more = false
			}
		}
		timer.Stop()
		upload(context.WithoutCancel(ctx), client, batch, log)
	}
}

func upload(ctx context.Context, client otlptrace.Client, batch []Span, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := client.UploadTraces(ctx, toOTLP(batch)); err != nil {
		log.Warn("spans not exported", "count", len(batch), "error", err)
	}
}

// toOTLP groups spans by component and node, which are OTLP's resources.
func toOTLP(batch []Span) []*tracepb.ResourceSpans {
	type source struct{ component, node string }
	groups := map[source]*tracepb.ResourceSpans{}
	var out []*tracepb.ResourceSpans
	for i := range batch {
		s := &batch[i]
		key := source{s.Component, s.Node}
		g, ok := groups[key]
		if !ok {
			attrs := []*commonpb.KeyValue{text("service.namespace", "wherry"), text("service.name", s.Component)}
			if s.Node != "" {
				attrs = append(attrs, text("k8s.node.name", s.Node))
			}
			g = &tracepb.ResourceSpans{Resource: &resourcepb.Resource{Attributes: attrs}, ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "wherry.dev/wherry"}}}}
			groups[key] = g
			out = append(out, g)
		}
		if span, ok := s.otlp(); ok {
			g.ScopeSpans[0].Spans = append(g.ScopeSpans[0].Spans, span)
		}
	}
	return out
}

// otlp gives the span OpenTelemetry's form. The trace ID is the pod's UID; the span ID is derived, so that sending twice is harmless.
func (s *Span) otlp() (*tracepb.Span, bool) {
	id, err := hex.DecodeString(strings.ReplaceAll(s.PodUID, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, false
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{s.PodUID, string(s.Stage), s.Component, s.Node, s.Detail, s.Start.Format(time.RFC3339Nano)}, "\x00")))
	span := &tracepb.Span{
		TraceId: id, SpanId: sum[:8], Name: string(s.Stage), Kind: tracepb.Span_SPAN_KIND_INTERNAL,
		StartTimeUnixNano: uint64(s.Start.UnixNano()), EndTimeUnixNano: uint64(s.End.UnixNano()),
		Attributes: []*commonpb.KeyValue{text("k8s.namespace.name", s.Namespace), text("k8s.pod.name", s.Pod), text("k8s.pod.uid", s.PodUID)},
		Status:     &tracepb.Status{Code: tracepb.Status_STATUS_CODE_OK},
	}
	if s.Detail != "" {
		span.Attributes = append(span.Attributes, text("wherry.detail", s.Detail))
	}
	for _, a := range s.Attrs {
		span.Attributes = append(span.Attributes, text("wherry."+strings.ReplaceAll(a.Key, " ", "."), a.Value))
	}
	if s.Outcome == Failed {
		span.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: s.Message}
	}
	return span, true
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}
