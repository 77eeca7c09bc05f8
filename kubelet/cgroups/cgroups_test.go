package cgroups

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func pod(uid string, containers ...corev1.ResourceRequirements) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p-" + uid, Namespace: "default", UID: types.UID(uid)}}
	for i, r := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Resources: r})
	}
	return p
}

func amounts(requests, limits string) corev1.ResourceRequirements {
	parse := func(s string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for part := range strings.FieldsSeq(s) {
			name, q, _ := strings.Cut(part, "=")
			l[corev1.ResourceName(name)] = resource.MustParse(q)
		}
		return l
	}
	return corev1.ResourceRequirements{Requests: parse(requests), Limits: parse(limits)}
}

func TestQOSClass(t *testing.T) {
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want corev1.PodQOSClass
	}{
		{"nothing", pod("a", amounts("", "")), corev1.PodQOSBestEffort},
		{"zero", pod("a", amounts("cpu=0", "")), corev1.PodQOSBestEffort},
		{"requests", pod("a", amounts("cpu=100m", "")), corev1.PodQOSBurstable},
		{"both", pod("a", amounts("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")), corev1.PodQOSGuaranteed},
		{"limits only", pod("a", amounts("", "cpu=1 memory=1Gi")), corev1.PodQOSGuaranteed},
		{"one of two", pod("a", amounts("", "cpu=1 memory=1Gi"), amounts("", "")), corev1.PodQOSBurstable},
		{"more limit", pod("a", amounts("cpu=1 memory=1Gi", "cpu=2 memory=1Gi")), corev1.PodQOSBurstable},
		{"no memory", pod("a", amounts("", "cpu=1")), corev1.PodQOSBurstable},
	} {
		if got := QOSClass(c.pod); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestLimits(t *testing.T) {
	m := &Manager{c: Config{Root: "/x", PodPids: 100}}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want Limits
	}{
		{"best effort", pod("a", amounts("", "")), Limits{Shares: 2, Quota: -1, Memory: -1, Pids: 100}},
		{"guaranteed", pod("a", amounts("cpu=1500m memory=64Mi", "cpu=1500m memory=64Mi")), Limits{Shares: 1536, Quota: 150000, Memory: 64 << 20, Pids: 100}},
		{"one unlimited", pod("a", amounts("cpu=1", "cpu=2 memory=64Mi"), amounts("cpu=1", "")), Limits{Shares: 2048, Quota: -1, Memory: -1, Pids: 100}},
		{"tiny", pod("a", amounts("cpu=1m", "cpu=1m")), Limits{Shares: 2, Quota: 1000, Memory: -1, Pids: 100}},
		{"huge pages", pod("a", amounts("cpu=1 hugepages-2Mi=4Mi", "hugepages-2Mi=4Mi")), Limits{Shares: 1024, Quota: -1, Memory: -1, Pids: 100, HugePages: map[string]int64{"2MB": 4 << 20}}},
	} {
		if got := m.limits(c.pod); !got.equal(c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	whole := pod("a", amounts("", ""))
	r := amounts("cpu=1 memory=1Gi", "cpu=2 memory=2Gi")
	whole.Spec.Resources = &r
	if got, want := m.limits(whole), (Limits{Shares: 1024, Quota: 200000, Memory: 2 << 30, Pids: 100}); !got.equal(want) {
		t.Errorf("pod-level resources: %+v, want %+v", got, want)
	}
}

// TestWeight pins the curve's fixed points and that more shares never weigh less.
func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64Range(2, 262144).Draw(t, "a"), rapid.Uint64Range(2, 262144).Draw(t, "b")
		if a > b {
			a, b = b, a
		}
		if wa, wb := weight(a), weight(b); wa > wb || wa < 1 || wb > 10000 {
			t.Fatalf("weight(%d)=%d, weight(%d)=%d", a, wa, b, wb)
		}
	})
}

func TestDetect(t *testing.T) {
	dir := t.TempDir()
	unified := filepath.Join(dir, "unified")
	mustMkdir(t, unified)
	controllers := func(s string) { mustWrite(t, filepath.Join(unified, "cgroup.controllers"), s) }
	info := filepath.Join(dir, "mountinfo")
	v2line := "31 23 0:28 / " + unified + " rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	v1lines := "32 31 0:29 / /c/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n"

	mustWrite(t, info, "1 0 8:1 / / rw - ext4 /dev/vda rw\n"+v2line)
	controllers("cpuset cpu io memory pids\n")
	if h, v2, err := detect(info); err != nil || !v2 || len(h) != 1 || h[0].mount != unified {
		t.Errorf("v2: %v %v %v", h, v2, err)
	}
	controllers("cpuset pids\n")
	if _, _, err := detect(info); err == nil || !strings.Contains(err.Error(), "delegate") {
		t.Errorf("v2 without controllers: %v", err)
	}
	mustWrite(t, info, v1lines+v2line+"36 31 0:32 /x /else rw - cgroup cgroup rw,memory\n")
	h, v2, err := detect(info)
	if err != nil || v2 || len(h) != 3 || !h[0].has("cpuacct") || h[1].mount != "/c/memory" {
		t.Errorf("hybrid: %v %v %v", h, v2, err)
	}
	mustWrite(t, info, "1 0 8:1 / / rw - ext4 /dev/vda rw\n")
	if _, _, err := detect(info); err == nil {
		t.Error("nothing mounted was no error")
	}
}

func mustMkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// newFake2 returns a manager on a directory that plays a v2 hierarchy: groups get the files the kernel would make.
func newFake2(t *testing.T) (*Manager, string) {
	t.Helper()
	top := t.TempDir()
	mustWrite(t, filepath.Join(top, "cgroup.controllers"), "cpuset cpu io memory hugetlb pids")
	mustWrite(t, filepath.Join(top, "cgroup.subtree_control"), "")
	info := filepath.Join(t.TempDir(), "mountinfo")
	mustWrite(t, info, "31 23 0:28 / "+top+" rw - cgroup2 cgroup2 rw\n")
	m, err := New(Config{Root: "/wherry/t/node-1", MountInfo: info})
	if err != nil {
		t.Fatal(err)
	}
	m.write = func(path, value string) error {
		if filepath.Base(path) == "cgroup.subtree_control" {
			old, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// The kernel makes the controller available in the children, which exist or come later.
			value = strings.TrimSpace(string(old) + " " + strings.TrimPrefix(value, "+"))
		}
		return os.WriteFile(path, []byte(value), 0o644)
	}
	// Groups are made with their files by the fake below, before the manager looks.
	seed := func(group string) {
		mustMkdir(t, filepath.Join(top, group))
		mustWrite(t, filepath.Join(top, group, "cgroup.controllers"), "cpuset cpu io memory hugetlb pids")
		mustWrite(t, filepath.Join(top, group, "cgroup.subtree_control"), "")
	}
	for _, g := range []string{"wherry", "wherry/t", "wherry/t/node-1", "wherry/t/node-1/kubepods", "wherry/t/node-1/kubepods/burstable",
		"wherry/t/node-1/kubepods/besteffort", "wherry/t/node-1/kubepods/burstable/podb", "wherry/t/node-1/kubepods/podg"} {
		seed(g)
	}
	return m, top
}

func TestV2Files(t *testing.T) {
	m, top := newFake2(t)
	if err := m.Start(amounts("cpu=2 memory=1Gi", "").Requests); err != nil {
		t.Fatal(err)
	}
	parent, err := m.Ensure(t.Context(), pod("b", amounts("cpu=1", "memory=64Mi cpu=2")))
	if err != nil {
		t.Fatal(err)
	}
	if want := "/wherry/t/node-1/kubepods/burstable/podb"; parent != want {
		t.Errorf("parent %s, want %s", parent, want)
	}
	if _, err := m.Ensure(t.Context(), pod("g", amounts("", "cpu=1 memory=32Mi"))); err != nil {
		t.Fatal(err)
	}
	all := "cpuset cpu io memory hugetlb pids"
	for file, want := range map[string]string{
		"cgroup.subtree_control":                                     all,
		"wherry/cgroup.subtree_control":                              all,
		"wherry/t/node-1/kubepods/cgroup.subtree_control":            all,
		"wherry/t/node-1/kubepods/memory.max":                        "1073741824",
		"wherry/t/node-1/kubepods/cpu.weight":                        fmt.Sprint(weight(2048)),
		"wherry/t/node-1/kubepods/besteffort/cpu.weight":             "1",
		"wherry/t/node-1/kubepods/burstable/cpu.weight":              "100",
		"wherry/t/node-1/kubepods/burstable/podb/cpu.weight":         "100",
		"wherry/t/node-1/kubepods/burstable/podb/cpu.max":            "200000 100000",
		"wherry/t/node-1/kubepods/burstable/podb/memory.max":         "67108864",
		"wherry/t/node-1/kubepods/burstable/podb/pids.max":           "max",
		"wherry/t/node-1/kubepods/podg/cpu.max":                      "100000 100000",
		"wherry/t/node-1/kubepods/podg/memory.max":                   "33554432",
		"wherry/t/node-1/kubepods/podg/cgroup.subtree_control":       all,
		"wherry/t/node-1/kubepods/burstable/podb/cgroup.controllers": all,
	} {
		got, err := os.ReadFile(filepath.Join(top, file))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q (%v), want %q", file, got, err, want)
		}
	}
	// Resize.
	if _, err := m.Ensure(t.Context(), pod("g", amounts("", "cpu=2 memory=32Mi"))); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(top, "wherry/t/node-1/kubepods/podg/cpu.max")); string(got) != "200000 100000" {
		t.Errorf("resized cpu.max: %q", got)
	}
	if l, ok := m.Applied("g"); !ok || l.Quota != 200000 {
		t.Errorf("applied: %+v %v", l, ok)
	}
}

func TestV2Usage(t *testing.T) {
	m, top := newFake2(t)
	dir := filepath.Join(top, "wherry/t/node-1/kubepods/podg")
	mustWrite(t, filepath.Join(dir, "cpu.stat"), "usage_usec 1500000\nuser_usec 1\nnr_periods 7\nnr_throttled 3\nthrottled_usec 250\n")
	mustWrite(t, filepath.Join(dir, "memory.current"), "1000000\n")
	mustWrite(t, filepath.Join(dir, "memory.stat"), "anon 600000\nfile 400000\ninactive_file 300000\npgfault 9\npgmajfault 2\n")
	mustWrite(t, filepath.Join(dir, "memory.max"), "max\n")
	mustWrite(t, filepath.Join(dir, "memory.events"), "low 0\noom 4\noom_kill 3\n")
	mustWrite(t, filepath.Join(dir, "pids.current"), "5\n")
	u, err := m.Pod("g")
	if err != nil {
		t.Fatal(err)
	}
	u.At = time.Time{}
	want := Usage{CPU: 1500 * time.Millisecond, CPUPeriods: 7, CPUThrottles: 3, CPUThrottled: 250 * time.Microsecond, Memory: 1000000, WorkingSet: 700000,
		RSS: 600000, Cache: 400000, PageFaults: 9, MajorPageFaults: 2, Processes: 5, OOMKills: 3}
	if u != want {
		t.Errorf("usage %+v\nwant  %+v", u, want)
	}
	if _, err := m.Pod("absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent pod: %v", err)
	}
}

// real returns a manager on this machine's own hierarchies under a root of the test's, removed afterwards.
func real(t *testing.T) *Manager {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes control groups")
	}
	m, err := New(Config{Root: fmt.Sprintf("/wherry-test-cgroups-%d", os.Getpid()), PodPids: 64})
	if err != nil {
		t.Skipf("no usable cgroup hierarchy: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Clear(ctx); err != nil {
			t.Errorf("clear: %v", err)
		}
		for _, h := range m.hierarchies {
			if _, err := os.Lstat(h.mount + m.c.Root); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s%s is left over: %v", h.mount, m.c.Root, err)
			}
		}
	})
	if err := m.Start(nil); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRealGroups makes a pod's group in the kernel, runs a process in it, reads its usage, and removes it with the
// process in it, from every hierarchy.
func TestRealGroups(t *testing.T) {
	m := real(t)
	p := pod("11111111-2222-3333-4444-555555555555", amounts("cpu=250m", "cpu=1500m memory=64Mi"))
	parent, err := m.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if !m.v2 {
		for file, want := range map[string]string{"cpu/cpu.shares": "256", "cpu/cpu.cfs_quota_us": "150000", "memory/memory.limit_in_bytes": "67108864", "pids/pids.max": "64"} {
			controller, name, _ := strings.Cut(file, "/")
			got, err := os.ReadFile(filepath.Join(m.carrying(controller).mount, parent, name))
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: %q (%v), want %s", file, got, err, want)
			}
		}
		got, _ := os.ReadFile(filepath.Join(m.carrying("cpu").mount, m.class(corev1.PodQOSBurstable), "cpu.shares"))
		if strings.TrimSpace(string(got)) != "256" {
			t.Errorf("burstable shares %q", got)
		}
	}
	// A process that the runtime would have put there, in a child and in hierarchies that we do not set.
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	for _, h := range m.hierarchies {
		if h.v2 != m.v2 || h.has("cpuset") { // cpuset wants its CPUs set first: the runtime's work
			continue
		}
		dir := filepath.Join(h.mount, parent, "c1")
		mustMkdir(t, dir)
		if err := writeControl(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(cmd.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	u, err := m.Pod(p.UID)
	if err != nil {
		t.Fatal(err)
	}
	if u.MemoryLimit != 64<<20 {
		t.Errorf("memory limit %d", u.MemoryLimit)
	}
	if u, err := m.Container(p.UID, "c1"); err != nil || u.Processes != 1 {
		t.Errorf("container: %+v %v", u, err)
	}
	if pid, err := m.Process(p.UID); err != nil || pid != cmd.Process.Pid {
		t.Errorf("process %d (%v), want %d", pid, err, cmd.Process.Pid)
	}
	orphans, err := m.Orphans(func(types.UID) bool { return false })
	if err != nil || len(orphans) != 1 || orphans[0] != p.UID {
		t.Errorf("orphans %v %v", orphans, err)
	}
	// A new manager, as after a restart, knows the pod by its group and removes it.
	again, err := New(m.c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Pod(p.UID); err != nil {
		t.Errorf("after restart: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := again.Remove(ctx, p.UID); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err == nil {
		t.Error("the process left in the group was not killed")
	}
	if err := again.Remove(ctx, p.UID); err != nil {
		t.Errorf("second removal: %v", err)
	}
	for _, h := range m.hierarchies {
		if _, err := os.Lstat(filepath.Join(h.mount, parent)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: group is left: %v", h.mount, err)
		}
	}
}

// TestRealOOM counts the kernel's kill when a process outgrows its container's group.
func TestRealOOM(t *testing.T) {
	m := real(t)
	p := pod("oom", amounts("", "cpu=1 memory=16Mi"))
	parent, err := m.Ensure(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	procs := filepath.Join(m.carrying("memory").mount, parent, "cgroup.procs")
	// The shell joins the group, then grows its own memory.
	cmd := exec.Command("sh", "-c", "echo $$ > "+procs+"; x=xxxxxxxx; while :; do x=$x$x; done")
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Run(); err == nil {
		t.Fatal("grew beyond its limit and lived")
	}
	u, err := m.Pod(p.UID)
	if err != nil || u.OOMKills == 0 {
		t.Errorf("usage after an OOM kill: %+v %v (stderr %s)", u, err, &out)
	}
}

func BenchmarkEnsureRemove(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: makes control groups")
	}
	m, err := New(Config{Root: fmt.Sprintf("/wherry-bench-cgroups-%d", os.Getpid())})
	if err != nil {
		b.Skip(err)
	}
	defer func() { _ = m.Clear(context.Background()) }()
	if err := m.Start(nil); err != nil {
		b.Fatal(err)
	}
	p := pod("bench", amounts("cpu=250m", "cpu=1500m memory=64Mi"))
	for b.Loop() {
		if _, err := m.Ensure(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		if err := m.Remove(b.Context(), p.UID); err != nil {
			b.Fatal(err)
		}
	}
}
