package verbs

import (
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/admission"
)

// Latencies returns who is told how long one plugin took, or all of them where plugin is empty, to admit or to validate (typ) for an operation, and whether
// it ended in a refusal.
type Latencies func(plugin, typ string, op admission.Operation, rejected bool) Observer

// Observer is told of latencies in seconds.
type Observer interface{ Observe(seconds float64) }

// pass are the plugins that have something to do for one operation, before or after validation. Immutable.
type pass[P any] struct {
	plugins []P
	took    []*latency // of each plugin
	whole   *latency
	latency func(plugin string) *latency
}

func newPass[P any](l Latencies, typ string, op admission.Operation) *pass[P] {
	of := func(plugin string) *latency {
		return &latency{of: func(rejected bool) Observer {
			if l == nil {
				return nobody{}
			}
			return l(plugin, typ, op, rejected)
		}}
	}
	return &pass[P]{latency: of, whole: of("")}
}

func (p *pass[P]) add(plugin P, name string) {
	p.plugins, p.took = append(p.plugins, plugin), append(p.took, p.latency(name))
}

// run asks one plugin after the other, until one refuses, and returns when the last of them answered.
func (p *pass[P]) run(began time.Time, ask func(P) error) (time.Time, error) {
	for i, plugin := range p.plugins {
		err := ask(plugin)
		now := time.Now()
		p.took[i].observe(now.Sub(began), err != nil)
		if began = now; err != nil {
			return now, err
		}
	}
	return began, nil
}

// latency finds its observers when the first is needed, and remembers them: to look them up costs more than most plugins.
type latency struct {
	of   func(rejected bool) Observer
	seen [2]atomic.Pointer[Observer]
}

func (l *latency) observe(d time.Duration, rejected bool) {
	i := 0
	if rejected {
		i = 1
	}
	o := l.seen[i].Load()
	if o == nil {
		made := l.of(rejected)
		l.seen[i].Store(&made)
		o = &made
	}
	(*o).Observe(d.Seconds())
}

// nobody is told.
type nobody struct{}

func (nobody) Observe(float64) {}
