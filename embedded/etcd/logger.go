package etcd

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger hands etcd's log lines to l. Only warnings and worse pass: etcd's information lines tell of every step of a
// start. A fatal line panics instead of ending the process, so that Start can explain a damaged directory; later on,
// in etcd's own goroutines, the panic ends the process as etcd means it to.
func zapLogger(l *slog.Logger) *zap.Logger {
	return zap.New(&core{log: l.With("component", "etcd")}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// core is a zapcore.Core over slog. Immutable.
type core struct{ log *slog.Logger }

func (c *core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && c.log.Enabled(context.Background(), level(l))
}

func (c *core) With(fs []zapcore.Field) zapcore.Core {
	return &core{log: c.log.With(attrs(fs)...)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !expected(e.Message) {
		return ce.AddCore(e, c)
	}
	return ce
}

// expected tells the warnings that belong to every first start of a lone member, and mean nothing: etcd looks for a storage
// version before the first write has stored one.
func expected(message string) bool {
	switch message {
	case "Failed to detect schema version", "failed to update storage version", "failed to update cluster version":
		return true
	}
	return strings.HasPrefix(message, "Failed to detect storage schema version")
}

func (c *core) Write(e zapcore.Entry, fs []zapcore.Field) error {
	c.log.Log(context.Background(), level(e.Level), e.Message, attrs(fs)...)
	return nil
}

func (c *core) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l >= zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// attrs renders zap's fields. Only lines that are written come here.
func attrs(fs []zapcore.Field) []any {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fs {
		f.AddTo(m)
	}
	out := make([]any, 0, 2*len(m.Fields))
	for k, v := range m.Fields {
		out = append(out, slog.Any(k, v))
	}
	return out
}
