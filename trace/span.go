// Package trace records the stages of each pod's life as spans of one trace, whose ID is the pod's UID.
// Any component may import it to record; only the server collects. It imports lifecycle and nothing else of Wherry's.
package trace

import (
	"time"

	"wherry.dev/wherry/lifecycle"
)

// Outcome says how a stage ended.
type Outcome string

const (
	OK      Outcome = "ok"      // the stage did its work
	Failed  Outcome = "failed"  // the stage ended in an error; Message says which
	Waiting Outcome = "waiting" // the stage has begun and is held up; Message says by what. A later span of the same stage, component and node replaces it
)

// Attr explains a span: rejecting node and reason, image and bytes, probe and failures.
type Attr struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Span is one stage of one pod on one component. Immutable once handed to a Recorder.
type Span struct {
	PodUID    string          `json:"uid"` // the trace: the pod's UID, as in metadata.uid
	Namespace string          `json:"namespace"`
	Pod       string          `json:"pod"`
	Stage     lifecycle.Stage `json:"stage"`
	Component string          `json:"component"`        // apiserver, scheduler, kubelet, controllers, proxy, dns
	Node      string          `json:"node,omitempty"`   // empty outside nodes
	Detail    string          `json:"detail,omitempty"` // distinguishes spans of one stage, such as the container's name; may be empty
	Start     time.Time       `json:"start"`
	End       time.Time       `json:"end,omitzero"` // zero while Outcome is Waiting
	Outcome   Outcome         `json:"outcome"`
	Message   string          `json:"message,omitempty"` // why it failed, or what it waits for
	Attrs     []Attr          `json:"attrs,omitempty"`
}

// Recorder takes spans. Record never blocks and never fails: a full queue drops the span and counts it.
// Safe for concurrent use.
type Recorder interface {
	Record(Span)
}

// Nop drops every span.
type Nop struct{}

// Record implements Recorder.
func (Nop) Record(Span) {}
