package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
	"k8s.io/apiserver/plugin/pkg/audit/truncate"
	auditwebhook "k8s.io/apiserver/plugin/pkg/audit/webhook"
)

// Config says what is recorded, and where. Upstream's --audit-* flags, under their names.
type Config struct {
	// PolicyFile holds an audit.k8s.io/v1 Policy, read once.
	PolicyFile string
	Log        LogConfig
	Webhook    WebhookConfig
}

// LogConfig is the log file.
type LogConfig struct {
	// Path of the file, "-" for standard output. Empty: no log.
	Path string
	// Format is json (an event a line) or legacy.
	Format string
	// MaxAgeDays, MaxBackups and MaxSizeMB rotate the file; 0 is no limit of age and number, and 100 MB.
	MaxAgeDays, MaxBackups, MaxSizeMB int
	Compress                          bool // the old ones, with gzip
	Delivery
}

// WebhookConfig is an API that events are sent to.
type WebhookConfig struct {
	// ConfigFile is a kubeconfig that names it. Empty: none.
	ConfigFile string
	// InitialBackoff is how long to wait before the second try; each further wait is half as long again, five tries in all.
	InitialBackoff time.Duration
	Delivery
}

// Delivery says how events go to a back end.
type Delivery struct {
	// Mode is one of Modes.
	Mode  string
	Batch buffered.BatchConfig // for batch
	// Truncate bounds events, if TruncateEnabled.
	TruncateEnabled bool
	Truncate        truncate.Config
}

// The modes: batch keeps a bounded queue and drops what does not fit; blocking writes before the answer goes on; blocking-strict
// also refuses a request whose first event cannot be written.
const (
	ModeBatch          = "batch"
	ModeBlocking       = "blocking"
	ModeBlockingStrict = "blocking-strict"
)

// Modes are the accepted modes.
var Modes = []string{ModeBatch, ModeBlocking, ModeBlockingStrict}

// Defaults are upstream's: a log blocks, a webhook is sent batches.
func Defaults() Config {
	bounds := truncate.Config{MaxBatchSize: 10 << 20, MaxEventSize: 100 << 10}
	return Config{
		Log: LogConfig{Format: auditlog.FormatJson, Delivery: Delivery{Mode: ModeBlocking, Truncate: bounds,
			Batch: buffered.BatchConfig{BufferSize: 10000, MaxBatchSize: 1}}}, // a file gains nothing from waiting
		Webhook: WebhookConfig{InitialBackoff: auditwebhook.DefaultInitialBackoffDelay, Delivery: Delivery{Mode: ModeBatch, Truncate: bounds,
			Batch: buffered.BatchConfig{BufferSize: 10000, MaxBatchSize: 400, MaxBatchWait: 30 * time.Second, ThrottleEnable: true, ThrottleQPS: 10, ThrottleBurst: 15, AsyncDelegate: true}}},
	}
}

func (c *Config) backend() (audit.Backend, error) {
	var backends []audit.Backend
	if c.Log.Path != "" {
		out, err := c.Log.open()
		if err != nil {
			return nil, err
		}
		b, err := c.Log.deliver(auditlog.NewBackend(out, c.Log.Format, auditv1.SchemeGroupVersion), "--audit-log-")
		if err != nil {
			return nil, err
		}
		backends = append(backends, b)
	}
	if c.Webhook.ConfigFile != "" {
		b, err := auditwebhook.NewBackend(c.Webhook.ConfigFile, auditv1.SchemeGroupVersion, webhook.DefaultRetryBackoffWithInitialDelay(c.Webhook.InitialBackoff), nil)
		if err != nil {
			return nil, fmt.Errorf("audit webhook of %s: %w", c.Webhook.ConfigFile, err)
		}
		if b, err = c.Webhook.deliver(b, "--audit-webhook-"); err != nil {
			return nil, err
		}
		backends = append(backends, b)
	}
	return audit.Union(backends...), nil
}

// open opens the log, or fails now rather than at the first event.
func (c *LogConfig) open() (io.Writer, error) {
	if !slices.Contains(auditlog.AllowedFormats, c.Format) {
		return nil, fmt.Errorf("audit log: format %q: choose one of %v with --audit-log-format", c.Format, auditlog.AllowedFormats)
	}
	if c.MaxAgeDays < 0 || c.MaxBackups < 0 || c.MaxSizeMB < 0 {
		return nil, errors.New("audit log: --audit-log-maxage, --audit-log-maxbackup and --audit-log-maxsize cannot be negative")
	}
	if c.Path == "-" {
		return os.Stdout, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600) // what follows keeps the mode
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &lumberjack.Logger{Filename: c.Path, MaxAge: c.MaxAgeDays, MaxBackups: c.MaxBackups, MaxSize: c.MaxSizeMB, Compress: c.Compress}, nil
}

// deliver puts bounds and queue before a back end. flags is how the flags' names begin.
func (d Delivery) deliver(b audit.Backend, flags string) (audit.Backend, error) {
	if d.TruncateEnabled {
		if d.Truncate.MaxEventSize <= 0 || d.Truncate.MaxBatchSize < d.Truncate.MaxEventSize {
			return nil, fmt.Errorf("audit: %struncate-max-batch-size must be at least %struncate-max-event-size, and that above 0", flags, flags)
		}
		b = truncate.NewBackend(b, d.Truncate, auditv1.SchemeGroupVersion)
	}
	switch d.Mode {
	case ModeBlockingStrict:
		return b, nil
	case ModeBlocking:
		return lenient{b}, nil
	case ModeBatch:
		if d.Batch.BufferSize <= 0 || d.Batch.MaxBatchSize <= 0 || d.Batch.ThrottleEnable && (d.Batch.ThrottleQPS <= 0 || d.Batch.ThrottleBurst <= 0) {
			return nil, fmt.Errorf("audit: %sbatch-* must be above 0", flags)
		}
		return buffered.NewBackend(b, d.Batch), nil
	}
	return nil, fmt.Errorf("audit: %smode %q: choose one of %v", flags, d.Mode, Modes)
}

// lenient lets a request go on whose event could not be written.
type lenient struct{ audit.Backend }

// ProcessEvents implements audit.Sink.
func (b lenient) ProcessEvents(events ...*auditapi.Event) bool {
	b.Backend.ProcessEvents(events...)
	return true
}
