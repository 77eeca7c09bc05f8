// Package plugins holds the scheduling rules, one a file, under upstream's names. A rule is pure: it looks at one
// pod and one node as they are in the snapshot and says whether they fit, or how well. It is imported by scheduler alone.
package plugins

import (
	corev1 "k8s.io/api/core/v1"
)

// MaxScore is the highest score of one plugin before its weight (upstream's MaxNodeScore).
const MaxScore = 100

// Plugin is what every rule has.
type Plugin interface {
	// Name is upstream's name of the plugin.
	Name() string
}

// Filter rules out nodes.
type Filter interface {
	Plugin
	// Filter returns "" when the pod may run on the node, otherwise why not, in upstream's words, as counted in
	// FailedScheduling events. It allocates nothing when the pod fits.
	Filter(pod *Pod, node *Node) (reason string)
	// Wakes reports whether the change could make a pod schedulable that this filter turned away (upstream's queueing
	// hints). It may err on the side of yes.
	Wakes(pod *Pod, change Change) bool
}

// Relievable is a filter whose refusal may end when pods leave the node; the others' never does (upstream's
// UnschedulableAndUnresolvable).
type Relievable interface {
	Filter
	// Relievable reports whether an empty node would do.
	Relievable(pod *Pod, node *Node) bool
}

// Score ranks the nodes that are left.
type Score interface {
	Plugin
	// Weight is that of upstream's default profile.
	Weight() int64
	// Score returns how well the node suits, 0 to MaxScore unless Normalize says otherwise.
	Score(pod *Pod, node *Node) int64
	// Normalize says how raw scores become 0 to MaxScore over all nodes that are left.
	Normalize(pod *Pod) Normalization
}

// Normalization is upstream's DefaultNormalizeScore, or none.
type Normalization int

const (
	// AsIs takes the score as it is.
	AsIs Normalization = iota
	// Scaled divides by the highest score.
	Scaled
	// Reversed is Scaled with the best at zero.
	Reversed
)

// Change is something that happened in the cluster and might help a pod.
type Change struct {
	Kind ChangeKind
	Node *Node       // of NodeAdded, NodeUpdated and PodGone: the node as it is now; nil when it is unknown
	Pod  *corev1.Pod // of PodGone: the pod that freed its room
}

// ChangeKind is a kind of Change.
type ChangeKind int

// The kinds of Change.
const (
	NodeAdded ChangeKind = iota
	NodeUpdated
	PodGone
)

// Default returns the filters and scores of upstream's default profile which this version has, in upstream's order.
func Default() ([]Filter, []Score) {
	return []Filter{NodeUnschedulable{}, NodeName{}, TaintToleration{}, NodeAffinity{}, NodePorts{}, NodeResourcesFit{}},
		[]Score{TaintToleration{}, NodeAffinity{}, NodeResourcesFit{}, NodeResourcesBalancedAllocation{}, ImageLocality{}}
}
