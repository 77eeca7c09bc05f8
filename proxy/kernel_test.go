package proxy

import (
	"testing"
	"time"

	"wherry.dev/wherry/network/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// The same, but an endpoint comes or goes, so that the Service moves to another chain.
func BenchmarkCountChangeAmong10000(b *testing.B) {
	change(b, func(i int) (name, Desired) {
		n, d := many(i/2%10_000, 0)
		for _, f := range d.Frontends {
			f.Cluster = f.Cluster[i%2:]
		}
		return n, d
	})
}

// One change among 10,000 Services, from the decided Frontends to the kernel's confirmation.
func BenchmarkChangeAmong10000(b *testing.B) {
	change(b, func(i int) (name, Desired) { return many(i%10_000, 1+i/10_000%3) })
}

func change(b *testing.B, next func(i int) (name, Desired)) {
	netnstest.Need(b)
	k, err := openKernel("wherry-bench", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer Cleanup("wherry-bench")
	defer k.close()
	table := NewTable()
	for i := range 10_000 {
		table.Set(many(i, 0))
	}
	start := time.Now()
	if err := k.load(table.All()); err != nil {
		b.Fatal(err)
	}
	b.Logf("load of 10,000 Services: %v", time.Since(start))
	var worst time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		table.Set(next(i))
		if err := k.apply(table.Take()); err != nil {
			b.Fatal(err)
		}
		worst = max(worst, time.Since(start))
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
}
