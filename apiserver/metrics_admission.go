package apiserver

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/admission"

	"wherry.dev/wherry/apiserver/verbs"
)

// newAdmissionLatencies are the histograms of how long admission takes, under upstream's names. Webhooks are timed by the package that calls them.
func newAdmissionLatencies(reg prometheus.Registerer) verbs.Latencies {
	buckets := []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}
	steps := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_step_admission_duration_seconds",
		Help: "Admission sub-step latency histogram in seconds, for each operation and step type (validate or admit).", Buckets: buckets}, []string{"type", "operation", "rejected"})
	plugins := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_admission_controller_admission_duration_seconds",
		Help: "Admission controller latency histogram in seconds, by name, for each operation and type (validate or admit).", Buckets: buckets}, []string{"name", "type", "operation", "rejected"})
	if reg != nil {
		reg.MustRegister(steps, plugins)
	}
	return func(plugin, typ string, op admission.Operation, rejected bool) verbs.Observer {
		if plugin == "" {
			return steps.WithLabelValues(typ, string(op), strconv.FormatBool(rejected))
		}
		return plugins.WithLabelValues(plugin, typ, string(op), strconv.FormatBool(rejected))
	}
}
