package client

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLoopMetrics follows a key through waiting, work and another try.
func TestLoopMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m := NewLoopMetrics()
		registry := prometheus.NewRegistry()
		registry.MustRegister(m)
		value := func(name string) (v float64) {
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if f.GetName() != name {
					continue
				}
				for _, one := range f.Metric {
					if one.Label[0].GetValue() != "two_words" {
						t.Errorf("%s of %v", name, one.Label)
					}
					v += one.GetCounter().GetValue() + one.GetGauge().GetValue() + one.GetHistogram().GetSampleSum()
				}
			}
			return v
		}
		tries := 0
		loop := NewLoop("two words", 1, slog.New(slog.DiscardHandler), func(_ context.Context, key string) error {
			time.Sleep(2 * time.Second)
			if tries++; tries == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			loop.Run(m.Measuring(ctx))
		}()
		synctest.Wait()
		loop.Add("a")
		synctest.Wait() // a is worked on
		loop.Add("b")
		time.Sleep(time.Second)
		for name, want := range map[string]float64{"workqueue_adds_total": 2, "workqueue_depth": 1, "workqueue_unfinished_work_seconds": 1, "workqueue_longest_running_processor_seconds": 1, "workqueue_retries_total": 0, "workqueue_work_duration_seconds": 0} {
			if got := value(name); got != want {
				t.Errorf("in the middle %s is %v, not %v", name, got, want)
			}
		}
		time.Sleep(time.Minute)
		for name, want := range map[string]float64{"workqueue_adds_total": 2, "workqueue_depth": 0, "workqueue_unfinished_work_seconds": 0, "workqueue_retries_total": 1, "workqueue_work_duration_seconds": 6, "workqueue_queue_duration_seconds": 2} {
			if got := value(name); got != want {
				t.Errorf("at the end %s is %v, not %v", name, got, want)
			}
		}
		cancel()
		<-done
		if got := value("workqueue_depth"); got != 0 || len(m.loops) != 0 {
			t.Errorf("a loop that has ended is measured")
		}
	})
}

// TestLoopWithoutMetrics works as ever.
func TestLoopWithoutMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	loop := NewLoop("plain", 1, slog.New(slog.DiscardHandler), func(_ context.Context, key string) error {
		if key == "a" {
			cancel()
		}
		return nil
	})
	loop.Add("a")
	loop.Run(ctx)
}
