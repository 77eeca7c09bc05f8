package client

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// LoopMetrics measures reconcile loops under the names that upstream's work queues have. It is a prometheus.Collector. What can be
// read when somebody asks is not counted before. Safe for concurrent use.
type LoopMetrics struct {
	adds, retries *prometheus.CounterVec
	waited, took  *prometheus.HistogramVec

	mu    sync.Mutex
	loops map[*measured]bool // guarded by mu
}

// measured is one running loop.
type measured struct {
	name          string
	depth         func() int
	adds, retries prometheus.Counter
	waited, took  prometheus.Observer

	mu    sync.Mutex
	added map[string]time.Time // guarded by mu; keys that wait
	begun map[string]time.Time // guarded by mu; keys that are worked on
}

var loopLabels = []string{"name"}

// What is read when somebody asks.
var (
	loopDepth      = prometheus.NewDesc("workqueue_depth", "Current depth of workqueue", loopLabels, nil)
	loopUnfinished = prometheus.NewDesc("workqueue_unfinished_work_seconds", "How many seconds of work has done that is in progress and hasn't been observed by work_duration.", loopLabels, nil)
	loopLongest    = prometheus.NewDesc("workqueue_longest_running_processor_seconds", "How many seconds has the longest running processor for workqueue been running.", loopLabels, nil)
)

// NewLoopMetrics returns metrics of no loop yet.
func NewLoopMetrics() *LoopMetrics {
	buckets := prometheus.ExponentialBuckets(10e-9, 10, 10)
	return &LoopMetrics{loops: map[*measured]bool{},
		adds:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Total number of adds handled by workqueue"}, loopLabels),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_retries_total", Help: "Total number of retries handled by workqueue"}, loopLabels),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_queue_duration_seconds", Help: "How long in seconds an item stays in workqueue before being requested.",
			Buckets: buckets}, loopLabels),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "workqueue_work_duration_seconds", Help: "How long in seconds processing an item from workqueue takes.",
			Buckets: buckets}, loopLabels)}
}

type loopMetricsKey struct{}

// Measuring returns a context whose loops m measures.
func (m *LoopMetrics) Measuring(ctx context.Context) context.Context {
	return context.WithValue(ctx, loopMetricsKey{}, m)
}

// begin measures a loop until end is called; nil when the context's loops are not measured.
func begin(ctx context.Context, name string, depth func() int) (l *measured, end func()) {
	m, ok := ctx.Value(loopMetricsKey{}).(*LoopMetrics)
	if !ok {
		return nil, func() {}
	}
	name = strings.ReplaceAll(name, " ", "_")
	l = &measured{name: name, depth: depth, adds: m.adds.WithLabelValues(name), retries: m.retries.WithLabelValues(name), waited: m.waited.WithLabelValues(name), took: m.took.WithLabelValues(name),
		added: map[string]time.Time{}, begun: map[string]time.Time{}}
	m.mu.Lock()
	m.loops[l] = true
	m.mu.Unlock()
	return l, func() {
		m.mu.Lock()
		delete(m.loops, l)
		m.mu.Unlock()
	}
}

// add notes that a key waits.
func (l *measured) add(key string) {
	if l == nil {
		return
	}
	l.adds.Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.added[key]; !waits {
		l.added[key] = time.Now()
	}
}

// start notes that work on a key begins.
func (l *measured) start(key string) {
	if l == nil {
		return
	}
	now := time.Now()
	l.mu.Lock()
	at, known := l.added[key]
	delete(l.added, key)
	l.begun[key] = now
	l.mu.Unlock()
	if known { // keys that were added after a while are not
		l.waited.Observe(now.Sub(at).Seconds())
	}
}

// done notes that it ends.
func (l *measured) done(key string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	at := l.begun[key]
	delete(l.begun, key)
	l.mu.Unlock()
	l.took.Observe(time.Since(at).Seconds())
}

// retry notes that a key will be tried again.
func (l *measured) retry() {
	if l != nil {
		l.retries.Inc()
	}
}

// Describe implements prometheus.Collector.
func (m *LoopMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.adds, m.retries, m.waited, m.took} {
		c.Describe(ch)
	}
	ch <- loopDepth
	ch <- loopUnfinished
	ch <- loopLongest
}

// Collect implements prometheus.Collector.
func (m *LoopMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.adds, m.retries, m.waited, m.took} {
		c.Collect(ch)
	}
	type sums struct{ depth, unfinished, longest float64 }
	by := map[string]*sums{} // loops of one name are one to whoever looks
	now := time.Now()
	m.mu.Lock()
	for l := range m.loops {
		s := by[l.name]
		if s == nil {
			s = &sums{}
			by[l.name] = s
		}
		s.depth += float64(l.depth())
		l.mu.Lock()
		for _, at := range l.begun {
			age := now.Sub(at).Seconds()
			s.unfinished += age
			s.longest = max(s.longest, age)
		}
		l.mu.Unlock()
	}
	m.mu.Unlock()
	for name, s := range by {
		ch <- prometheus.MustNewConstMetric(loopDepth, prometheus.GaugeValue, s.depth, name)
		ch <- prometheus.MustNewConstMetric(loopUnfinished, prometheus.GaugeValue, s.unfinished, name)
		ch <- prometheus.MustNewConstMetric(loopLongest, prometheus.GaugeValue, s.longest, name)
	}
}
