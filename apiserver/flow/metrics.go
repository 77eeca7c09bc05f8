package flow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds of the waits, in seconds, as upstream's.
var bounds = [...]float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}

// histogram counts durations. The controller's mu guards it.
type histogram struct {
	counts [len(bounds)]uint64
	count  uint64
	sum    float64
}

func (h *histogram) observe(d time.Duration) {
	h.count++
	h.sum += d.Seconds()
	for i, b := range bounds {
		if d.Seconds() <= b {
			h.counts[i]++
		}
	}
}

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("apiserver_flowcontrol_"+name, help, labels, nil)
}

// What /metrics tells, under upstream's names. All of it is read when it is asked for: requests only count.
var (
	nominalSeats = description("nominal_limit_seats", "Nominal number of execution seats configured for each priority level", "priority_level")
	lowerSeats   = description("lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", "priority_level")
	upperSeats   = description("upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", "priority_level")
	executing    = description("current_executing_requests", "Number of requests in the regular execution stage of the priority and fairness machinery", "priority_level", "flow_schema")
	waiting      = description("current_inqueue_requests", "Number of requests currently pending in queues of the priority and fairness machinery", "priority_level", "flow_schema")
	dispatched   = description("dispatched_requests_total", "Number of requests executed by the priority and fairness machinery", "priority_level", "flow_schema")
	rejected     = description("rejected_requests_total", "Number of requests rejected by the priority and fairness machinery", "priority_level", "flow_schema", "reason")
	waited       = description("request_wait_duration_seconds", "Length of time a request spent waiting in its queue", "priority_level", "flow_schema", "execute")
)

// Describe implements prometheus.Collector.
func (c *Controller) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nominalSeats, lowerSeats, upperSeats, executing, waiting, dispatched, rejected, waited} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Controller) Collect(ch chan<- prometheus.Metric) {
	var list []prometheus.Metric // sent when mu is free again
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...))
	}
	c.mu.Lock()
	for _, l := range c.order {
		gauge(nominalSeats, l.nominal, l.object.Name)
		gauge(lowerSeats, l.kept, l.object.Name)
		gauge(upperSeats, min(c.total, l.limit()), l.object.Name)
	}
	for _, s := range c.schemas {
		level, name, n := s.level.object.Name, s.object.Name, &s.counts
		gauge(executing, int(n.executing), level, name)
		gauge(waiting, int(n.waiting), level, name)
		list = append(list, prometheus.MustNewConstMetric(dispatched, prometheus.CounterValue, float64(n.dispatched), level, name))
		for r, count := range n.rejected {
			if count > 0 {
				list = append(list, prometheus.MustNewConstMetric(rejected, prometheus.CounterValue, float64(count), level, name, reasonNames[r]))
			}
		}
		for served, h := range n.waits {
			if h.count == 0 {
				continue
			}
			buckets := map[float64]uint64{}
			for i, b := range bounds {
				buckets[b] = h.counts[i]
			}
			list = append(list, prometheus.MustNewConstHistogram(waited, h.count, h.sum, buckets, level, name, []string{"false", "true"}[served]))
		}
	}
	c.mu.Unlock()
	for _, m := range list {
		ch <- m
	}
}
