package main

import (
	"context"
	"log/slog"

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

// WithAttrs implements slog.Handler.
func (w *warningsOnly) WithAttrs(a []slog.Attr) slog.Handler {
	return &warningsOnly{w.Handler.WithAttrs(a)}
}

// WithGroup implements slog.Handler.
func (w *warningsOnly) WithGroup(name string) slog.Handler {
	return &warningsOnly{w.Handler.WithGroup(name)}
}
