package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// metrics are the server's, under upstream's names.
type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	sizes     *prometheus.HistogramVec
	inflight  *prometheus.GaugeVec
	long      *prometheus.GaugeVec
	events    *prometheus.CounterVec
	eventSize *prometheus.CounterVec
	panics    prometheus.Counter
	outdated  *prometheus.GaugeVec
	access    accessMetrics

	routes sync.Map // routeKey → *routeMetrics: looking up nine labels for every request costs more than the rest
}

func newMetrics(reg prometheus.Registerer) *metrics {
	route := []string{"verb", "group", "version", "resource", "subresource", "scope", "dry_run"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code."},
			append(route[:len(route):len(route)], "component", "code")),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 10, 30, 60}},
			append(route[:len(route):len(route)], "component")),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_response_sizes",
			Help: "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7)},
			[]string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests",
			Help: "Number of currently used inflight request limit of this apiserver per request kind."}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests",
			Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component."},
			[]string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total",
			Help: "Number of events sent in watch clients."}, []string{"group", "version", "resource"}),
		eventSize: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_bytes_total",
			Help: "Bytes of events sent to watch clients."}, []string{"group", "version", "resource"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_request_panics_total", Help: "Number of requests whose handler panicked."}),
		outdated: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_requested_deprecated_apis",
			Help: "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release."},
			[]string{"group", "version", "resource", "subresource", "removed_release"}),
	}
	m.access = newAccessMetrics(reg)
	if reg != nil {
		reg.MustRegister(m.requests, m.durations, m.sizes, m.inflight, m.long, m.events, m.eventSize, m.panics, m.outdated)
	}
	return m
}

// routeKey is what requests are told apart by.
type routeKey struct {
	verb, group, version, resource, subresource, scope string
	dryRun                                             bool
}

type routeMetrics struct {
	duration prometheus.Observer
	size     prometheus.Observer
	codes    sync.Map // int → prometheus.Counter
}

func keyOf(i *apirequest.RequestInfo) routeKey {
	k := routeKey{verb: strings.ToUpper(i.Verb), group: i.APIGroup, version: i.APIVersion, resource: i.Resource, subresource: i.Subresource, scope: scopeOf(i)}
	switch k.verb {
	case "CREATE":
		k.verb = "POST"
	case "UPDATE":
		k.verb = "PUT"
	case "GET", "LIST", "WATCH", "PATCH", "DELETE", "DELETECOLLECTION", "HEAD", "POST", "PUT", "PROXY", "CONNECT":
	default:
		k.verb = "other"
	}
	if !i.IsResourceRequest { // paths are anything the client likes
		k = routeKey{verb: k.verb}
	}
	return k
}

func scopeOf(i *apirequest.RequestInfo) string {
	switch {
	case i.Name != "", i.Verb == "create":
		return "resource"
	case i.Namespace != "":
		return "namespace"
	case i.IsResourceRequest:
		return "cluster"
	}
	return ""
}

// start counts a request as being served, until the returned function is called.
func (m *metrics) start(i *apirequest.RequestInfo, long bool) func() {
	if long {
		g := m.long.WithLabelValues(strings.ToUpper(i.Verb), i.APIGroup, i.APIVersion, i.Resource, i.Subresource, scopeOf(i), "apiserver")
		g.Inc()
		return g.Dec
	}
	kind := "mutating"
	switch i.Verb {
	case "get", "list", "head", "options":
		kind = "readOnly"
	}
	g := m.inflight.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

// finish counts a finished request.
func (m *metrics) finish(o *observation, took time.Duration) {
	i := o.r.Info
	if i == nil {
		return
	}
	k := keyOf(i)
	switch o.w.code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable:
		o.unknown = true // as far as anybody has said
	}
	if o.unknown && o.server.known(i) == nil { // names which nobody has confirmed to exist must not become labels
		k = routeKey{verb: k.verb}
	}
	if strings.Contains(o.r.HTTP.URL.RawQuery, "dryRun") {
		k.dryRun = true
	}
	v, ok := m.routes.Load(k)
	if !ok {
		dry := ""
		if k.dryRun {
			dry = "All"
		}
		v, _ = m.routes.LoadOrStore(k, &routeMetrics{
			duration: m.durations.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, dry, "apiserver"),
			size:     m.sizes.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, "apiserver")})
	}
	rm := v.(*routeMetrics)
	if k.verb != "WATCH" { // a watch's life is no latency
		rm.duration.Observe(took.Seconds())
		rm.size.Observe(float64(o.w.bytes))
	}
	c, ok := rm.codes.Load(o.w.code)
	if !ok {
		dry := ""
		if k.dryRun {
			dry = "All"
		}
		c, _ = rm.codes.LoadOrStore(o.w.code, m.requests.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, dry, "apiserver", strconv.Itoa(o.w.code)))
	}
	c.(prometheus.Counter).Inc()
}

// watched counts what the watches of one resource send. Its counters are made by the first of them.
type watched func() [2]prometheus.Counter

func newWatched(m *metrics, r schema.GroupVersionResource) watched {
	return sync.OnceValue(func() [2]prometheus.Counter {
		return [2]prometheus.Counter{m.events.WithLabelValues(r.Group, r.Version, r.Resource), m.eventSize.WithLabelValues(r.Group, r.Version, r.Resource)}
	})
}

func (w watched) Events(n, bytes int) {
	c := w()
	c[0].Add(float64(n))
	c[1].Add(float64(bytes))
}
