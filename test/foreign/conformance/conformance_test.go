package conformance

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wherry.dev/wherry/test/foreign/build"
)

// usual are the groups that must pass.
const usual = "api-machinery auth cli"

// atOnce is how many specs run side by side: two for each core, as most of them wait most of the time, and no more than two nodes hold with ease.
// Those that upstream marks serial come one by one, after the others.
func atOnce() string {
	return cmp.Or(os.Getenv("PROCS"), strconv.Itoa(min(2*runtime.NumCPU(), 8)))
}

// TestConformance runs the specs; each is a subtest. Those in the file known are left out.
func TestConformance(t *testing.T) {
	need(t)
	known := readKnown(t)
	c := up(t, os.Getenv(imagesVariable))
	table := newTable(t, tables(t), fmt.Sprintf("# %s, %s at once, begun %s", focus(), atOnce(), time.Now().Format(time.DateTime)))
	report := c.run(t, known, table)
	table.finish(t, report)
	for _, s := range report {
		t.Run(s.name(), func(t *testing.T) {
			if s.failed() {
				t.Errorf("%s: %s\n%s:%d", s.State, s.Failure.Message, s.Failure.Location.FileName, s.Failure.Location.LineNumber)
			}
		})
	}
	if len(report) == 0 {
		t.Error("no spec ran")
	}
}

// spec is what a report of ginkgo says of one.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

// ran says whether a spec was one of those asked for. What comes before and after all specs counts where it failed.
func (s spec) ran() bool {
	return s.failed() || s.LeafNodeType == "It" && s.State == "passed"
}

func (s spec) failed() bool {
	return s.State != "passed" && s.State != "skipped" && s.State != "pending"
}

// readKnown reads the specs that cannot run here: a name a line, and below it, indented, the reason.
func readKnown(t *testing.T) (names []string) {
	t.Helper()
	f, err := os.Open("known")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, " ") {
			names = append(names, line)
		}
	}
	return names
}

func focus() string {
	if f := os.Getenv("FOCUS"); f != "" {
		return f
	}
	sigs := cmp.Or(os.Getenv("SIGS"), usual)
	return `\[sig-(` + strings.Join(strings.Fields(sigs), "|") + `)\]`
}

// run runs the specs and returns those that ran. What ginkgo writes goes to progress too. They come in no order, so that those which wait
// for minutes are not all left for the end.
func (c *cluster) run(t *testing.T, known []string, progress io.Writer) []spec {
	t.Helper()
	dir := cmp.Or(os.Getenv("WHERRY_FOREIGN_LOGS"), c.state)
	report := filepath.Join(dir, "report.json")
	args := []string{"--procs=" + atOnce(), "--randomize-all", "-v", "--silence-skips", "--no-color", "--timeout=3h", "--label-filter=Conformance", "--focus=" + focus(), "--json-report=report.json", "--output-dir=" + dir}
	if len(known) > 0 && os.Getenv("FOCUS") == "" {
		quoted := make([]string, len(known))
		for i, name := range known {
			quoted[i] = regexp.QuoteMeta(name)
		}
		args = append(args, "--skip=("+strings.Join(quoted, "|")+")")
	}
	args = append(args, build.Need(t, "e2e.test"), "--", "--kubeconfig="+c.kubeconfig, "--provider=skeleton", "--num-nodes=2", "--kubectl-path="+c.kubectl(t),
		"--report-dir="+dir, "--disable-log-dump", "--dump-logs-on-failure=false", "--allowed-not-ready-nodes=0")
	log, err := os.Create(filepath.Join(dir, "e2e.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(build.Need(t, "ginkgo"), args...)
	cmd.Dir = dir
	cmd.Stdout = io.MultiWriter(log, progress)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runErr := cmd.Run()
	b, err := os.ReadFile(report)
	if err != nil {
		written, _ := os.ReadFile(log.Name())
		t.Fatalf("run the suite: %v: %v: %s", runErr, err, written[max(0, len(written)-4000):])
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(b, &suites); err != nil {
		t.Fatalf("read the suite's report: %v", err)
	}
	var ran []spec
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.ran() {
				ran = append(ran, s)
			}
		}
	}
	return ran
}

// kubectl is the one that comes with the product, as the suite calls it: a program of its own.
func (c *cluster) kubectl(t *testing.T) string {
	t.Helper()
	root, err := build.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, ".build", "kubectl")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("kubectl is not built (%v): make build", err)
	}
	return path
}
