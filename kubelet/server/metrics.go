package server

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"wherry.dev/wherry/kubelet/cgroups"
)

// ownMetrics are those of the kubelet itself, with the ones its parts gave.
func (s *server) ownMetrics() prometheus.Gatherer {
	own := prometheus.NewRegistry()
	count := func(keep func(Instance) bool) func() float64 {
		return func() float64 {
			n := 0
			for _, i := range s.c.Backend.Instances() {
				if keep(i) {
					n++
				}
			}
			return float64(n)
		}
	}
	own.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_running_pods", Help: "Number of pods that have a running pod sandbox"},
			count(func(i Instance) bool { return i.Name == "" && i.Running })),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_running_containers", Help: "Number of containers currently running",
			ConstLabels: prometheus.Labels{"container_state": "running"}}, count(func(i Instance) bool { return i.Name != "" && i.Running })),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_node_name", Help: "The node's name. The count is always 1.",
			ConstLabels: prometheus.Labels{"node": s.c.NodeName}}, func() float64 { return 1 }),
	)
	if s.c.Metrics == nil {
		return own
	}
	return prometheus.Gatherers{own, s.c.Metrics}
}

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(s.gather, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func (s *server) noMetrics(w http.ResponseWriter, _ *http.Request) { (&exposition{}).send(w) }

// exposition writes metrics in Prometheus' text format (version 0.0.4), family by family.
type exposition struct {
	families []string
	text     map[string]*bytes.Buffer
}

func (e *exposition) family(name, kind, help string) {
	if e.text == nil {
		e.text = map[string]*bytes.Buffer{}
	}
	e.families = append(e.families, name)
	e.text[name] = &bytes.Buffer{}
	fmt.Fprintf(e.text[name], "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// add writes one value; labels are name and value in turn. A zero time leaves the moment to the scraper.
func (e *exposition) add(name string, v float64, at time.Time, labels ...string) {
	b := e.text[name]
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		b.WriteString(labels[i])
		b.WriteString(`="`)
		b.WriteString(escapeLabel.Replace(labels[i+1]))
		b.WriteByte('"')
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	if !at.IsZero() {
		b.WriteByte(' ')
		b.WriteString(strconv.FormatInt(at.UnixMilli(), 10))
	}
	b.WriteByte('\n')
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (e *exposition) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, f := range e.families {
		_, _ = w.Write(e.text[f].Bytes())
	}
}

// resourceMetrics is /metrics/resource, from which metrics-server feeds kubectl top and autoscalers (KEP-727).
func (s *server) resourceMetrics(w http.ResponseWriter, _ *http.Request) {
	var e exposition
	for _, f := range [][3]string{
		{"container_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds"},
		{"container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes"},
		{"container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds"},
		{"container_swap_usage_bytes", "gauge", "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems"},
		{"node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds"},
		{"node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes"},
		{"node_swap_usage_bytes", "gauge", "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems"},
		{"pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds"},
		{"pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes"},
		{"pod_swap_usage_bytes", "gauge", "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems"},
		{"resource_scrape_error", "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise"},
	} {
		e.family(f[0], f[1], f[2])
	}
	node := nodeUsage()
	e.add("node_cpu_usage_seconds_total", node.CPU.Seconds(), node.At)
	e.add("node_memory_working_set_bytes", float64(node.WorkingSet), node.At)
	e.add("node_swap_usage_bytes", float64(node.Swap), node.At)
	failed := 0.0
	if s.c.Groups == nil {
		failed = 1
	} else {
		for _, p := range s.runningByPod() {
			for _, c := range p.containers {
				u, err := s.c.Groups.Container(p.uid, c.ID)
				if err != nil {
					continue // ended meanwhile
				}
				l := []string{"container", c.Name, "namespace", p.namespace, "pod", p.name}
				e.add("container_cpu_usage_seconds_total", u.CPU.Seconds(), u.At, l...)
				e.add("container_memory_working_set_bytes", float64(u.WorkingSet), u.At, l...)
				e.add("container_start_time_seconds", seconds(c.Started), time.Time{}, l...)
				e.add("container_swap_usage_bytes", float64(u.Swap), u.At, l...)
			}
			u, err := s.c.Groups.Pod(p.uid)
			if err != nil {
				continue
			}
			l := []string{"namespace", p.namespace, "pod", p.name}
			e.add("pod_cpu_usage_seconds_total", u.CPU.Seconds(), u.At, l...)
			e.add("pod_memory_working_set_bytes", float64(u.WorkingSet), u.At, l...)
			e.add("pod_swap_usage_bytes", float64(u.Swap), u.At, l...)
		}
	}
	e.add("resource_scrape_error", failed, time.Time{})
	e.send(w)
}

// containerMetrics is /metrics/cadvisor: the part of cAdvisor's metrics that dashboards and alerts are built on.
func (s *server) containerMetrics(w http.ResponseWriter, _ *http.Request) {
	var e exposition
	counter := func(name, help string) { e.family(name, "counter", help) }
	gauge := func(name, help string) { e.family(name, "gauge", help) }
	counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.")
	counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.")
	counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.")
	counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.")
	gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed")
	gauge("container_memory_working_set_bytes", "Current working set in bytes.")
	gauge("container_memory_rss", "Size of RSS in bytes.")
	gauge("container_memory_cache", "Number of bytes of page cache memory.")
	gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.")
	gauge("container_memory_swap", "Container swap usage in bytes.")
	counter("container_memory_failures_total", "Cumulative count of memory allocation failures.")
	gauge("container_spec_memory_limit_bytes", "Memory limit for the container.")
	counter("container_oom_events_total", "Count of out of memory events observed for the container")
	gauge("container_processes", "Number of processes running inside the container.")
	gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	gauge("container_last_seen", "Last time a container was seen by the exporter")
	counter("container_network_receive_bytes_total", "Cumulative count of bytes received")
	counter("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving")
	counter("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted")
	counter("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting")
	gauge("machine_cpu_cores", "Number of logical CPU cores.")
	gauge("machine_memory_bytes", "Amount of memory installed on the machine.")
	e.add("machine_cpu_cores", float64(runtime.NumCPU()), time.Time{})
	e.add("machine_memory_bytes", float64(memoryTotal()), time.Time{})
	usage := func(u cgroups.Usage, started time.Time, l []string) {
		add := func(name string, v float64) { e.add(name, v, u.At, l...) }
		e.add("container_cpu_usage_seconds_total", u.CPU.Seconds(), u.At, append(append([]string{}, l...), "cpu", "total")...)
		if u.CPUPeriods > 0 {
			add("container_cpu_cfs_periods_total", float64(u.CPUPeriods))
			add("container_cpu_cfs_throttled_periods_total", float64(u.CPUThrottles))
			add("container_cpu_cfs_throttled_seconds_total", u.CPUThrottled.Seconds())
		}
		add("container_memory_usage_bytes", float64(u.Memory))
		add("container_memory_working_set_bytes", float64(u.WorkingSet))
		add("container_memory_rss", float64(u.RSS))
		add("container_memory_cache", float64(u.Cache))
		add("container_memory_mapped_file", float64(u.MappedFile))
		add("container_memory_swap", float64(u.Swap))
		e.add("container_memory_failures_total", float64(u.PageFaults), u.At, append(append([]string{}, l...), "failure_type", "pgfault", "scope", "hierarchy")...)
		e.add("container_memory_failures_total", float64(u.MajorPageFaults), u.At, append(append([]string{}, l...), "failure_type", "pgmajfault", "scope", "hierarchy")...)
		add("container_spec_memory_limit_bytes", float64(u.MemoryLimit))
		add("container_oom_events_total", float64(u.OOMKills))
		add("container_processes", float64(u.Processes))
		if !started.IsZero() {
			add("container_start_time_seconds", seconds(started))
		}
		add("container_last_seen", float64(u.At.Unix()))
	}
	root := []string{"container", "", "id", "/", "image", "", "name", "", "namespace", "", "pod", ""}
	usage(nodeUsage(), bootTime(), root)
	if s.c.Groups != nil {
		for _, p := range s.runningByPod() {
			for _, c := range p.containers {
				if u, err := s.c.Groups.Container(p.uid, c.ID); err == nil {
					usage(u, c.Started, []string{"container", c.Name, "id", c.ID, "image", c.Image, "name", c.ID, "namespace", p.namespace, "pod", p.name})
				}
			}
			if u, err := s.c.Groups.Pod(p.uid); err == nil {
				usage(u, p.started, []string{"container", "", "id", "pod" + string(p.uid), "image", "", "name", "", "namespace", p.namespace, "pod", p.name})
			}
			if p.hostNetwork {
				continue
			}
			pid, err := s.c.Groups.Process(p.uid)
			if err != nil {
				continue
			}
			now := time.Now()
			n := network(filepath.Join("/proc", strconv.Itoa(pid), "net/dev"), "eth0", now)
			if n == nil {
				continue
			}
			for _, i := range n.Interfaces {
				l := []string{"container", "", "id", "pod" + string(p.uid), "image", "", "interface", i.Name, "name", p.sandbox, "namespace", p.namespace, "pod", p.name}
				e.add("container_network_receive_bytes_total", float64(i.RxBytes), now, l...)
				e.add("container_network_receive_errors_total", float64(i.RxErrors), now, l...)
				e.add("container_network_transmit_bytes_total", float64(i.TxBytes), now, l...)
				e.add("container_network_transmit_errors_total", float64(i.TxErrors), now, l...)
			}
		}
	}
	e.send(w)
}
