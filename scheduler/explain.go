package scheduler

import (
	"slices"
	"strings"

	"wherry.dev/wherry/scheduler/plugins"
	"wherry.dev/wherry/trace"
)

// nodesInTrace bounds the node-by-node table of one span.
const nodesInTrace = 100

// refusal says why a pod fits nowhere.
type refusal struct {
	message string       // of the event and the condition, in upstream's words
	nodes   []trace.Attr // node by node, for the trace
	filters []plugins.Filter
}

// explain counts the reasons, as upstream's FitError does: by text, most telling is left to the reader, in the order of the texts.
func (c *class) explain(s *snapshot, pod *plugins.Pod) refusal {
	counts := map[string]int{}
	var r refusal
	refusedBy := map[string]bool{}
	for slot, node := range s.slots {
		if node == nil || node.Node == nil || c.fits[slot] {
			continue
		}
		reasons := c.reasonsOn(pod, node)
		for _, reason := range reasons {
			counts[reason]++
		}
		if len(r.nodes) < nodesInTrace {
			r.nodes = append(r.nodes, trace.Attr{Key: "node " + node.Name, Value: strings.Join(reasons, ", ")})
		}
		for _, f := range c.filters {
			if !refusedBy[f.Name()] && f.Filter(pod, node) != "" {
				refusedBy[f.Name()] = true
				r.filters = append(r.filters, f)
			}
		}
	}
	if s.nodes == 0 {
		r.message = "no nodes available to schedule pods"
		return r
	}
	r.message = unavailable(s.nodes, counts)
	return r
}

// reasonsOn returns why the pod does not fit on the node: the first filter's word, or each resource that is short.
func (c *class) reasonsOn(pod *plugins.Pod, node *plugins.Node) []string {
	for _, f := range c.filters {
		if reason := f.Filter(pod, node); reason != "" {
			if shortages := (plugins.NodeResourcesFit{}).Shortages(pod, node); slices.Contains(shortages, reason) {
				return shortages
			}
			return []string{reason}
		}
	}
	return nil
}
