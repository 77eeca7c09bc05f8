package cluster

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/client"
)

// measures are a server's metrics besides those of its API server, under upstream's names.
type measures struct {
	registry *prometheus.Registry
	loops    *client.LoopMetrics

	requests, failures *prometheus.CounterVec // to etcd
	latencies          *prometheus.HistogramVec
}

func newMeasures() *measures {
	labels := []string{"operation", "group", "resource"}
	m := &measures{registry: prometheus.NewRegistry(), loops: client.NewLoopMetrics(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_requests_total", Help: "Etcd request counts for each operation and object type."}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_request_errors_total", Help: "Etcd failed request counts for each operation and object type."}, labels),
		latencies: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds", Help: "Etcd request latency in seconds for each operation and object type.",
			// Upstream's begin at 5 ms; an etcd in the same process answers sooner.
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, labels)}
	v := versionInfo()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubernetes_build_info",
		Help: "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_commit": v.GitCommit, "git_tree_state": v.GitTreeState, "build_date": v.BuildDate,
			"go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}})
	build.Set(1)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.loops, m.requests, m.failures, m.latencies, build)
	return m
}

// etcd notes a request to etcd.
func (m *measures) etcd(resource schema.GroupResource, operation string, took time.Duration, err error) {
	m.requests.WithLabelValues(operation, resource.Group, resource.Resource).Inc()
	m.latencies.WithLabelValues(operation, resource.Group, resource.Resource).Observe(took.Seconds())
	if err != nil {
		m.failures.WithLabelValues(operation, resource.Group, resource.Resource).Inc()
	}
}

// storageSize says how large etcd's database is, when somebody asks. It is a prometheus.Collector.
type storageSize struct {
	of func(context.Context) (int64, error)
}

var storageSizeDesc = prometheus.NewDesc("apiserver_storage_size_bytes", "Size of the storage database file physically allocated in bytes.", []string{"storage_cluster_id"}, nil)

// Describe implements prometheus.Collector.
func (storageSize) Describe(ch chan<- *prometheus.Desc) { ch <- storageSizeDesc }

// Collect implements prometheus.Collector. An etcd that does not answer has no size.
func (s storageSize) Collect(ch chan<- prometheus.Metric) {
	if n, err := s.of(context.Background()); err == nil {
		ch <- prometheus.MustNewConstMetric(storageSizeDesc, prometheus.GaugeValue, float64(n), "etcd-0")
	}
}
