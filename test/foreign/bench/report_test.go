package bench

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	m := newMeasurements()
	for _, v := range []float64{100, 300, 200} {
		m.add(upstream, limited, higher, v)
		m.add(wherry, limited, higher, 6*v)
		m.add(upstream, "memory", lower, v)
		m.add(wherry, "memory", lower, v/4)
	}
	m.puts = []float64{1000, 2000}
	r := m.report()
	if len(r.Ratios) != 2 || r.Ratios[0] != (Ratio{limited, 200, 1200, 6}) || r.Ratios[1] != (Ratio{"memory", 200, 50, 4}) {
		t.Errorf("ratios %+v", r.Ratios)
	}
	if r.EtcdPuts != 1500 || r.CreatesOfPut != 0.8 {
		t.Errorf("puts %v, creates of them %v", r.EtcdPuts, r.CreatesOfPut)
	}
	if table := r.table(); !strings.Contains(table, "6.0") || !strings.Contains(table, "0.80") {
		t.Errorf("table:\n%s", table)
	}
}
