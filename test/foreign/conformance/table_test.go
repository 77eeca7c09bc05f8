package conformance

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.dev/wherry/test/foreign/build"
)

// table is the file of one run. A verdict is in it as soon as a spec has ended, so that a run which is killed has told what it found; at the
// end it is written anew, in order and with counts. Former runs' tables stay beside it.
type table struct {
	path string
	head string

	mu   sync.Mutex
	file *os.File // nil once the whole is written
	rest []byte   // the line that ginkgo has begun
	last string   // the verdict whose spec the next line names
}

// tables is the folder of the tables.
func tables(t *testing.T) string {
	t.Helper()
	root, err := build.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, ".build", "foreign")
}

// newTable begins conformance/TIME.txt, to which conformance.txt leads from now on.
func newTable(t *testing.T, dir, head string) *table {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "conformance"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("conformance", time.Now().Format("20060102-150405")+".txt")
	file, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	r := &table{path: file.Name(), head: head, file: file}
	t.Cleanup(r.close)
	fmt.Fprintln(r.file, head)
	latest := filepath.Join(dir, "conformance.txt")
	if err := os.Remove(latest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(name, latest); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *table) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// verdict is the line with which ginkgo begins what it writes of a spec that has ended; the spec's name is in the next.
var verdict = regexp.MustCompile(`^• (\[[A-Z]+\] )?.*\[([0-9.]+) seconds\]`)

// Write takes what ginkgo writes.
func (r *table) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rest = append(r.rest, p...)
	for {
		line, rest, whole := bytes.Cut(r.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		switch m := verdict.FindSubmatch(line); {
		case m != nil:
			r.last = cmp.Or(strings.Trim(string(m[1]), "[] "), "ok")
			r.last = fmt.Sprintf("%-8s%7ss", r.last, m[2])
		case r.last != "" && r.file != nil:
			fmt.Fprintf(r.file, "%s  %s\n", r.last, line)
			r.last = ""
		}
		r.rest = rest
	}
}

// finish replaces what came in one by one by a line for each spec, with the time it took, and how many of each group passed.
func (r *table) finish(t *testing.T, report []spec) {
	t.Helper()
	r.close()
	slices.SortFunc(report, func(a, b spec) int { return strings.Compare(a.name(), b.name()) })
	out := r.head + "\n" + lines(report)
	t.Logf("\n%s", out)
	if err := os.WriteFile(r.path, []byte(out), 0o644); err != nil {
		t.Error(err)
	}
}

func lines(report []spec) string {
	var out strings.Builder
	passed, total := map[string]int{}, map[string]int{}
	var groups []string
	allPassed := 0
	for _, s := range report {
		name := s.name()
		group, _, _ := strings.Cut(name, " ")
		if total[group] == 0 {
			groups = append(groups, group)
		}
		total[group]++
		verdict := "FAILED"
		if !s.failed() {
			verdict = "ok"
			passed[group]++
			allPassed++
		}
		fmt.Fprintf(&out, "%-8s%7.1fs  %s\n", verdict, s.RunTime.Round(100*time.Millisecond).Seconds(), name)
	}
	for _, g := range groups {
		fmt.Fprintf(&out, "%s: %d of %d\n", g, passed[g], total[g])
	}
	fmt.Fprintf(&out, "all: %d of %d\n", allPassed, len(report))
	return out.String()
}

// TestTable holds that a verdict is on disk once ginkgo has written it, and that the end of the run replaces them by counts.
func TestTable(t *testing.T) {
	dir := t.TempDir()
	r := newTable(t, dir, "# this run")
	read := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "conformance.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, written := range []string{"Running in parallel\n-----\n• [1.0", "00 seconds]\n[sig-cli] a\nwatch.go:60\n-----\n", "• [FAILED] [60.000 seconds]\n[sig-cli] b\n"} {
		if _, err := r.Write([]byte(written)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "# this run\nok        1.000s  [sig-cli] a\nFAILED   60.000s  [sig-cli] b\n"; read() != want {
		t.Errorf("while the suite runs:\n%s\nwant:\n%s", read(), want)
	}
	r.finish(t, []spec{
		{ContainerHierarchyTexts: []string{"[sig-cli]"}, LeafNodeText: "b", State: "failed", RunTime: time.Minute},
		{ContainerHierarchyTexts: []string{"[sig-cli]"}, LeafNodeText: "a", State: "passed", RunTime: time.Second},
	})
	if want := "# this run\nok          1.0s  [sig-cli] a\nFAILED     60.0s  [sig-cli] b\n[sig-cli]: 1 of 2\nall: 1 of 2\n"; read() != want {
		t.Errorf("at the end:\n%s\nwant:\n%s", read(), want)
	}
}
