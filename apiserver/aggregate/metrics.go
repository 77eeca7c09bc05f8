package aggregate

import "github.com/prometheus/client_golang/prometheus"

// metrics have upstream's names.
type metrics struct {
	unavailable *prometheus.GaugeVec
	losses      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		unavailable: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "aggregator_unavailable_apiservice",
			Help: "Gauge of APIServices which are marked as unavailable broken down by APIService name."}, []string{"name"}),
		losses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aggregator_unavailable_apiservice_total",
			Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason."}, []string{"name", "reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.unavailable, m.losses)
	}
	return m
}

// set notes whether an APIService is available.
func (m *metrics) set(name string, available bool) {
	v := 1.0
	if available {
		v = 0
	}
	m.unavailable.WithLabelValues(name).Set(v)
}

// lost notes that an APIService ceased to be available.
func (m *metrics) lost(name, reason string) {
	if reason == "" {
		reason = "UnknownReason"
	}
	m.losses.WithLabelValues(name, reason).Inc()
}

// forget drops what is kept of an APIService that is gone.
func (m *metrics) forget(name string) { m.unavailable.DeleteLabelValues(name) }
