package bench

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

const (
	upstream = "upstream"
	wherry   = "wherry"
)

// better says which of two numbers is the better one.
type better int

const (
	higher better = iota
	lower
)

// measurements are the numbers of all rounds, by what was measured and of which control plane.
type measurements struct {
	order  []string
	better map[string]better
	values map[string]map[string][]float64 // what, control plane
	puts   []float64                       // of etcd alone, per second
}

func newMeasurements() *measurements {
	return &measurements{better: map[string]better{}, values: map[string]map[string][]float64{}}
}

func (m *measurements) add(which, what string, b better, v float64) {
	if m.values[what] == nil {
		m.order = append(m.order, what)
		m.values[what] = map[string][]float64{}
		m.better[what] = b
	}
	m.values[what][which] = append(m.values[what][which], v)
}

// Ratio is one line of the report: medians over the rounds, and how many times better Wherry's is.
type Ratio struct {
	What     string  `json:"what"`
	Upstream float64 `json:"upstream"`
	Wherry   float64 `json:"wherry"`
	Times    float64 `json:"times"`
}

// Report is all ratios, and Wherry's creates beside what etcd alone takes in at as many clients.
type Report struct {
	Ratios       []Ratio `json:"ratios"`
	EtcdPuts     float64 `json:"etcdPutsPerSecond"`
	CreatesOfPut float64 `json:"createsPerEtcdPut"`
}

// limited is the measurement that is held against etcd's own puts.
var limited = fmt.Sprintf("create pod, %d clients, per s", putClients)

func (m *measurements) report() Report {
	r := Report{EtcdPuts: median(m.puts)}
	for _, what := range m.order {
		ratio := Ratio{What: what, Upstream: median(m.values[what][upstream]), Wherry: median(m.values[what][wherry])}
		a, b := ratio.Wherry, ratio.Upstream
		if m.better[what] == lower {
			a, b = b, a
		}
		if b > 0 {
			ratio.Times = a / b
		}
		r.Ratios = append(r.Ratios, ratio)
		if what == limited && r.EtcdPuts > 0 {
			r.CreatesOfPut = ratio.Wherry / r.EtcdPuts
		}
	}
	return r
}

func (r Report) table() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "what\tupstream\twherry\ttimes better\t")
	for _, x := range r.Ratios {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t\n", x.What, x.Upstream, x.Wherry, x.Times)
	}
	fmt.Fprintf(t, "etcd alone, puts of the same size, %d clients, per s\t%.1f\t\t\t\n", putClients, r.EtcdPuts)
	fmt.Fprintf(t, "Wherry's creates for each of these puts\t\t%.2f\t\t\n", r.CreatesOfPut)
	_ = t.Flush()
	return b.String()
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
