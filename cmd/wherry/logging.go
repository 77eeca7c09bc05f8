package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// quietLibraries sends what client-go and its like log through klog to our log, warnings and errors only: what they call
// information is their own business.
func quietLibraries(log *slog.Logger) {
	handler := &warningsOnly{log.With("part", "library").Handler()}
	klog.SetLogger(logr.FromSlogHandler(handler))
}

type warningsOnly struct{ slog.Handler }

// Enabled implements slog.Handler.
func (w *warningsOnly) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (w *warningsOnly) Handle(ctx context.Context, r slog.Record) error {
	if onlyEnds(r) {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (w *warningsOnly) WithAttrs(a []slog.Attr) slog.Handler {
	return &warningsOnly{w.Handler.WithAttrs(a)}
}

// WithGroup implements slog.Handler.
func (w *warningsOnly) WithGroup(name string) slog.Handler {
	return &warningsOnly{w.Handler.WithGroup(name)}
}

// ends are errors by which libraries report what is none: that a stream has ended because its client has what it wanted (k8s.io/streaming,
// client-go's port-forward), or a watch because this process was told to stop. By message, with what the error says then; with
// any other error the same message is news.
var ends = map[string][]string{
	"Error on socket receive":                    {"use of closed network connection", "connection reset by peer", "EOF"},
	"Error proxying data from client to backend": {"use of closed network connection", "connection reset by peer", "broken pipe", "close 1000", "close 1001", "close 1006"},
	"Error proxying data from backend to client": {"use of closed network connection", "connection reset by peer", "broken pipe", "close 1000", "close 1001", "close 1006"},
	"Failed to watch":                            {"signal received", "context canceled"},
}

func onlyEnds(r slog.Record) (yes bool) {
	known, ok := ends[r.Message]
	if !ok {
		return false
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "err" {
			return true
		}
		text := a.Value.String()
		for _, k := range known {
			yes = yes || strings.Contains(text, k)
		}
		return false
	})
	return yes
}
