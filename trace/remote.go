package trace

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Remote is the Recorder of a process without the collector: it sends spans to the server's, in batches, soon. Nothing is sent when nothing happens.
type Remote struct {
	queue chan Span
	lost  atomic.Int64
}

// Bounds of Remote: spans that wait, and how long the first of a batch waits for company.
const (
	remoteQueue = 4096
	remoteDelay = 50 * time.Millisecond
	remoteBatch = 500
)

// NewRemote returns a Recorder whose Run must be called.
func NewRemote() *Remote { return &Remote{queue: make(chan Span, remoteQueue)} }

// Record implements Recorder.
func (r *Remote) Record(s Span) {
	select {
	case r.queue <- s:
	default:
		r.lost.Add(1)
	}
}

// Run sends spans to the API server at the base URL until ctx ends, and what is queued then.
func (r *Remote) Run(ctx context.Context, client *http.Client, base string, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			r.send(last, client, base, r.batch(nil), log)
			return nil
		case first := <-r.queue:
			timer := time.NewTimer(remoteDelay)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			r.send(ctx, client, base, r.batch([]Span{first}), log)
		}
	}
}

func (r *Remote) batch(spans []Span) []Span {
	for len(spans) < remoteBatch {
		select {
		case s := <-r.queue:
			spans = append(spans, s)
		default:
			return spans
		}
	}
	return spans
}

// send delivers a batch or gives it up: a trace is worth less than the node's peace.
func (r *Remote) send(ctx context.Context, client *http.Client, base string, spans []Span, log *slog.Logger) {
	if len(spans) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := post(ctx, client, base, spans); err != nil {
		r.lost.Add(int64(len(spans)))
		log.Warn("spans lost", "count", len(spans), "lost", r.lost.Load(), "error", err)
	}
}

func post(ctx context.Context, client *http.Client, base string, spans []Span) error {
	body, err := json.Marshal(spans)
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+spansPath, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4096))
	if response.StatusCode >= 300 {
		return fmt.Errorf("send spans: the server answered %s", response.Status)
	}
	return nil
}
