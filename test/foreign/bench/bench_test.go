// Package bench measures Wherry's API server and upstream's kube-apiserver over etcd on the same machine in turns, with the same tool (`wherry bench`), and prints
// how many times faster one is; and what etcd alone takes in, as a limit. It measures and judges nothing: `make bench-foreign` runs it on a quiet machine.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"wherry.dev/wherry/test/foreign/build"
	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

// outputVariable names the file that takes the results as JSON. Unset, nothing is measured.
const outputVariable = "WHERRY_FOREIGN_BENCH"

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv("WHERRY_FOREIGN_BENCH_" + name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("WHERRY_FOREIGN_BENCH_%s: %v", name, err)
	}
	return n
}

// row is one line of what `wherry bench` measures.
type row struct {
	Name    string  `json:"name"`
	Workers int     `json:"workers"`
	Count   int     `json:"count"`
	Errors  int     `json:"errors"`
	Error   string  `json:"error"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"perSecond"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Server  float64 `json:"serverCPU"` // seconds for each operation
	Client  float64 `json:"clientCPU"`
	Note    string  `json:"note"`
}

// TestRatios takes rounds in turns. Each starts a control plane on an empty store: it is measured as it starts, under load, and after it.
func TestRatios(t *testing.T) {
	output := os.Getenv(outputVariable)
	if output == "" {
		t.Skip("measures for minutes: make bench-foreign")
	}
	plane.Need(t)
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		build.Need(t, name)
	}
	all := newMeasurements()
	for round := range setting(t, "ROUNDS", 2) {
		t.Run(fmt.Sprintf("round %d etcd", round), func(t *testing.T) { all.puts = append(all.puts, rawPuts(t, setting(t, "COUNT", 2000))) })
		t.Run(fmt.Sprintf("round %d upstream", round), func(t *testing.T) { all.measure(t, upstream) })
		t.Run(fmt.Sprintf("round %d wherry", round), func(t *testing.T) { all.measure(t, wherry) })
	}
	report := all.report()
	t.Logf("\n%s", report.table())
	encoded, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(output, append(encoded, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// start starts a whole control plane, and reports how long its API took to be ready.
func start(t *testing.T, which string) (*plane.Plane, time.Duration) {
	t.Helper()
	began := time.Now()
	if which == wherry {
		p := plane.StartWherry(t, plane.Port)
		return p, time.Since(began)
	}
	p := plane.StartUpstream(t, plane.Port)
	took := time.Since(began)
	p.StartManager()
	p.StartScheduler()
	return p, took
}

// measure fills a control plane's column for one round.
func (m *measurements) measure(t *testing.T, which string) {
	p, took := start(t, which)
	m.add(which, "ready on an empty store, ms", lower, float64(took.Microseconds())/1e3)
	m.addIdle(t, which, "idle, empty", p)
	count := setting(t, "COUNT", 2000)
	for _, r := range run(t, p, "api", "--workers", "1,16,64", "--count", fmt.Sprint(count)) {
		m.add(which, fmt.Sprintf("%s, %d clients, per s", r.Name, r.Workers), higher, r.Rate)
		m.add(which, fmt.Sprintf("%s, %d clients, server CPU µs", r.Name, r.Workers), lower, r.Server*1e6)
		m.add(which, fmt.Sprintf("%s, %d clients, client CPU µs", r.Name, r.Workers), lower, r.Client*1e6)
		m.add(which, fmt.Sprintf("%s, %d clients, p99 ms", r.Name, r.Workers), lower, r.P99*1e3)
	}
	watchers := setting(t, "WATCHERS", 1000)
	for _, r := range run(t, p, "watch", "--watchers", fmt.Sprint(watchers), "--changes", "2000", "--workers", "16", "--timeout", "3m") {
		m.add(which, fmt.Sprintf("%s, %d watchers, per s", r.Name, watchers), higher, r.Rate)
		m.add(which, fmt.Sprintf("%s, %d watchers, server CPU µs", r.Name, watchers), lower, r.Server*1e6)
		m.add(which, fmt.Sprintf("%s, %d watchers, arrived of %d", r.Name, watchers, watchers*2000), higher, float64(r.Count))
	}
	m.addIdle(t, which, "idle, after the load", p)
}

// run calls `wherry bench` and returns its rows. Errors of single requests fail the test: a rate with errors is none.
func run(t *testing.T, p *plane.Plane, what string, args ...string) []row {
	t.Helper()
	file := filepath.Join(p.Dir, what+".json")
	line := append([]string{"bench", what, "--kubeconfig", p.Kubeconfig, "-o", file}, args...)
	for _, process := range p.Processes {
		switch process.Name { // upstream's controller-manager and scheduler are left out, Wherry's are in the one process
		case "etcd", "kube-apiserver", "wherry":
			line = append(line, "--server-pid", strconv.Itoa(process.PID()))
		}
	}
	out, err := exec.Command(build.Wherry(t), line...).CombinedOutput()
	if err != nil {
		t.Fatalf("wherry %s: %v: %s", strings.Join(line, " "), err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatalf("results of wherry bench %s: %v", what, err)
	}
	for _, r := range rows {
		if r.Errors > 0 && what != "watch" { // of a watch an error is a watcher that was dropped for being slow
			t.Errorf("%s with %d clients: %d errors, such as %s", r.Name, r.Workers, r.Errors, r.Error)
		}
		t.Logf("%s %s, %d: %.0f/s, CPU %.0f µs of servers, %.0f µs of the client %s", p.Name, r.Name, r.Workers, r.Rate, r.Server*1e6, r.Client*1e6, r.Note)
	}
	return rows
}
