package verbs

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/admission"
)

// told is an Observer that remembers for whom it was made.
type told struct {
	all  *[]string
	name string
}

func (o told) Observe(float64) { *o.all = append(*o.all, o.name) }

// TestPass: plugins are asked in order until one refuses, and each that was asked is timed.
func TestPass(t *testing.T) {
	var asked, timed []string
	p := newPass[string](func(plugin, typ string, op admission.Operation, rejected bool) Observer {
		name := plugin + " " + typ + " " + string(op)
		if rejected {
			name += " rejected"
		}
		return told{&timed, name}
	}, "admit", admission.Create)
	for _, name := range []string{"a", "b", "c"} {
		p.add(name, name)
	}
	refusal := errors.New("no")
	for range 2 {
		if _, err := p.run(time.Now(), func(name string) error {
			asked = append(asked, name)
			if name == "b" {
				return refusal
			}
			return nil
		}); err != refusal {
			t.Error(err)
		}
	}
	if want := []string{"a", "b", "a", "b"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if want := []string{"a admit CREATE", "b admit CREATE rejected", "a admit CREATE", "b admit CREATE rejected"}; !slices.Equal(timed, want) {
		t.Errorf("timed %q, want %q", timed, want)
	}
}

// BenchmarkPass is what the timing of 25 plugins costs a request.
func BenchmarkPass(b *testing.B) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5}})
	p := newPass[int](func(string, string, admission.Operation, bool) Observer { return h }, "admit", admission.Create)
	for i := range 25 {
		p.add(i, "plugin")
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.run(time.Now(), func(int) error { return nil })
	}
}
