package trace

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"wherry.dev/wherry/lifecycle"
)

// Trace is what is known of one pod's life. Spans are in the order of their starts. The receiver owns it.
type Trace struct {
	PodUID    string `json:"uid"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Gone      bool   `json:"gone"` // the pod is removed from etcd
	Spans     []Span `json:"spans"`
	Dropped   int    `json:"dropped,omitempty"` // spans beyond the bound of one trace
}

// Bounds of the collector. A trace of a plain pod has some 25 spans and takes 5 KB.
const (
	maxLive  = 2000 // pods that exist
	maxGone  = 500  // pods that are gone
	maxSpans = 200  // of one pod
)

// Collector keeps the traces of recent pods in memory. It is a Recorder. Safe for concurrent use.
type Collector struct {
	mu     sync.Mutex
	pods   map[string]*entry // by UID; guarded by mu
	live   *list.List        // *entry, least recently touched first; guarded by mu
	gone   *list.List        // likewise
	export chan<- Span       // nil when nothing is exported; never blocks
	lost   int               // spans that export had no room for; guarded by mu
}

type entry struct {
	trace   Trace
	place   *list.Element
	waiters map[chan struct{}]bool // closed when the trace changes
}

// NewCollector returns an empty collector. Spans are offered to export too, unless it is nil; a full channel loses them.
func NewCollector(export chan<- Span) *Collector {
	return &Collector{pods: map[string]*entry{}, live: list.New(), gone: list.New(), export: export}
}

// Record implements Recorder.
func (c *Collector) Record(s Span) {
	if s.PodUID == "" || s.Start.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.export != nil && s.Outcome != Waiting {
		select {
		case c.export <- s:
		default:
			c.lost++
		}
	}
	e, ok := c.pods[s.PodUID]
	if !ok {
		e = &entry{trace: Trace{PodUID: s.PodUID, Namespace: s.Namespace, Pod: s.Pod}}
		c.pods[s.PodUID] = e
		e.place = c.live.PushBack(e)
		c.bound(c.live, maxLive)
	}
	e.trace.add(s)
	switch {
	case e.trace.Gone:
	case s.Stage == lifecycle.Forget && s.Outcome == OK:
		e.trace.Gone = true
		c.live.Remove(e.place)
		e.place = c.gone.PushBack(e)
		c.bound(c.gone, maxGone)
	default:
		c.live.MoveToBack(e.place)
	}
	for w := range e.waiters {
		close(w)
	}
	e.waiters = nil
}

func (c *Collector) bound(l *list.List, limit int) {
	for l.Len() > limit {
		oldest := l.Remove(l.Front()).(*entry)
		delete(c.pods, oldest.trace.PodUID)
		for w := range oldest.waiters {
			close(w)
		}
	}
}

// add takes a span in. One that waited is replaced by what it became.
func (t *Trace) add(s Span) {
	if s.Namespace != "" {
		t.Namespace, t.Pod = s.Namespace, s.Pod
	}
	for i := len(t.Spans) - 1; i >= 0; i-- {
		o := &t.Spans[i]
		if o.Outcome == Waiting && o.Stage == s.Stage && o.Component == s.Component && o.Node == s.Node && o.Detail == s.Detail {
			if o.Start.Before(s.Start) {
				s.Start = o.Start // it has waited since then
			}
			t.Spans = slices.Delete(t.Spans, i, i+1)
			break
		}
	}
	if len(t.Spans) >= maxSpans {
		t.Dropped++
		return
	}
	i, _ := slices.BinarySearchFunc(t.Spans, s, func(a, b Span) int {
		if by := a.Start.Compare(b.Start); by != 0 {
			return by
		}
		return -1 // equal starts keep the order of arrival
	})
	t.Spans = slices.Insert(t.Spans, i, s)
}

// Get returns the trace of a pod by UID.
func (c *Collector) Get(uid string) (Trace, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.pods[uid]
	if !ok {
		return Trace{}, false
	}
	return e.trace.clone(), true
}

// Find returns the newest trace of a pod by name: of the pod that exists, or of the last one that did.
func (c *Collector) Find(namespace, name string) (Trace, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var newest *entry
	for _, e := range c.pods {
		if e.trace.Namespace == namespace && e.trace.Pod == name && len(e.trace.Spans) > 0 &&
			(newest == nil || e.trace.Spans[0].Start.After(newest.trace.Spans[0].Start)) {
			newest = e
		}
	}
	if newest == nil {
		return Trace{}, false
	}
	return newest.trace.clone(), true
}

// Changed returns a channel that is closed when the trace of the UID changes or is forgotten, and its present state. The
// channel is nil when there is no such trace.
func (c *Collector) Changed(uid string) (<-chan struct{}, Trace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.pods[uid]
	if !ok {
		return nil, Trace{}
	}
	w := make(chan struct{})
	if e.waiters == nil {
		e.waiters = map[chan struct{}]bool{}
	}
	e.waiters[w] = true
	return w, e.trace.clone()
}

func (t *Trace) clone() Trace {
	out := *t
	out.Spans = slices.Clone(t.Spans)
	return out
}

// Lost returns how many spans the export had no room for.
func (c *Collector) Lost() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}

// Duration is how long the span took; so far, if it has not ended.
func (s *Span) Duration(now time.Time) time.Duration {
	if s.End.IsZero() {
		return now.Sub(s.Start)
	}
	return s.End.Sub(s.Start)
}
