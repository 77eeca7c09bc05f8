package apiserver

import "github.com/prometheus/client_golang/prometheus"

// storedMetrics says how many objects are stored, when somebody asks. It is a prometheus.Collector.
type storedMetrics struct{ server *Server }

var (
	resourceObjects = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects at the time of last check split by kind.", []string{"group", "resource"}, nil)
	storageObjects  = prometheus.NewDesc("apiserver_storage_objects", "[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind.",
		[]string{"resource"}, nil)
)

// Describe implements prometheus.Collector.
func (storedMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- resourceObjects
	ch <- storageObjects
}

// Collect implements prometheus.Collector.
func (m storedMetrics) Collect(ch chan<- prometheus.Metric) {
	t := m.server.now.Load()
	counted := map[string]bool{}
	for _, k := range t.kinds { // each stored side once, under the name under which it is stored first
		r := t.storage[k.StoragePrefix]
		if r == nil || k.Hub != nil && !k.Custom && !k.HubOpens || counted[k.StoragePrefix] {
			continue
		}
		counted[k.StoragePrefix] = true
		gr := k.GroupVersionResource().GroupResource()
		n := float64(r.Count())
		ch <- prometheus.MustNewConstMetric(resourceObjects, prometheus.GaugeValue, n, gr.Group, gr.Resource)
		ch <- prometheus.MustNewConstMetric(storageObjects, prometheus.GaugeValue, n, gr.String())
	}
}
