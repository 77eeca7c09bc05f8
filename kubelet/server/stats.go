package server

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/cgroups"
)

// The Summary API's answer (upstream's kubelet/pkg/apis/stats/v1alpha1), as far as this kubelet knows it.
type (
	summary struct {
		Node nodeStats  `json:"node"`
		Pods []podStats `json:"pods"`
	}
	nodeStats struct {
		NodeName         string           `json:"nodeName"`
		SystemContainers []containerStats `json:"systemContainers,omitempty"`
		StartTime        metav1.Time      `json:"startTime"`
		CPU              *cpuStats        `json:"cpu,omitempty"`
		Memory           *memoryStats     `json:"memory,omitempty"`
		Network          *networkStats    `json:"network,omitempty"`
		FS               *fsStats         `json:"fs,omitempty"`
		Rlimit           *rlimitStats     `json:"rlimit,omitempty"`
	}
	podStats struct {
		PodRef     podReference     `json:"podRef"`
		StartTime  metav1.Time      `json:"startTime"`
		Containers []containerStats `json:"containers"`
		CPU        *cpuStats        `json:"cpu,omitempty"`
		Memory     *memoryStats     `json:"memory,omitempty"`
		Network    *networkStats    `json:"network,omitempty"`
		Processes  *processStats    `json:"process_stats,omitempty"`
	}
	podReference struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		UID       string `json:"uid"`
	}
	containerStats struct {
		Name      string       `json:"name"`
		StartTime metav1.Time  `json:"startTime"`
		CPU       *cpuStats    `json:"cpu,omitempty"`
		Memory    *memoryStats `json:"memory,omitempty"`
	}
	cpuStats struct {
		Time                 metav1.Time `json:"time"`
		UsageNanoCores       *uint64     `json:"usageNanoCores,omitempty"`
		UsageCoreNanoSeconds uint64      `json:"usageCoreNanoSeconds"`
	}
	memoryStats struct {
		Time            metav1.Time `json:"time"`
		AvailableBytes  *uint64     `json:"availableBytes,omitempty"`
		UsageBytes      uint64      `json:"usageBytes"`
		WorkingSetBytes uint64      `json:"workingSetBytes"`
		RSSBytes        uint64      `json:"rssBytes"`
		PageFaults      uint64      `json:"pageFaults"`
		MajorPageFaults uint64      `json:"majorPageFaults"`
	}
	networkStats struct {
		Time metav1.Time `json:"time"`
		interfaceStats
		Interfaces []interfaceStats `json:"interfaces,omitempty"`
	}
	interfaceStats struct {
		Name     string `json:"name"`
		RxBytes  uint64 `json:"rxBytes"`
		RxErrors uint64 `json:"rxErrors"`
		TxBytes  uint64 `json:"txBytes"`
		TxErrors uint64 `json:"txErrors"`
	}
	fsStats struct {
		Time           metav1.Time `json:"time"`
		AvailableBytes uint64      `json:"availableBytes"`
		CapacityBytes  uint64      `json:"capacityBytes"`
		UsedBytes      uint64      `json:"usedBytes"`
		InodesFree     uint64      `json:"inodesFree"`
		Inodes         uint64      `json:"inodes"`
		InodesUsed     uint64      `json:"inodesUsed"`
	}
	rlimitStats struct {
		Time   metav1.Time `json:"time"`
		MaxPID int64       `json:"maxpid"`
		Procs  int64       `json:"curproc"`
	}
	processStats struct {
		Count uint64 `json:"process_count"`
	}
)

// summary is /stats/summary. Everything is read when it is asked for: nothing is sampled in between.
func (s *server) summary(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	sum := summary{Node: nodeStats{NodeName: s.c.NodeName, StartTime: metav1.NewTime(bootTime())}, Pods: []podStats{}}
	node := nodeUsage()
	sum.Node.CPU, sum.Node.Memory = s.rates.cpu("node", node), memoryOf(node)
	if total := memoryTotal(); total > node.WorkingSet {
		left := total - node.WorkingSet
		sum.Node.Memory.AvailableBytes = &left
	}
	sum.Node.Network = network("/proc/self/net/dev", defaultInterface(), now)
	sum.Node.FS = fileSystem(s.c.Root, now)
	sum.Node.Rlimit = processLimits(now)
	if s.c.Groups != nil {
		if u, err := s.c.Groups.Kubepods(); err == nil {
			sum.Node.SystemContainers = append(sum.Node.SystemContainers, containerStats{Name: "pods", StartTime: metav1.NewTime(s.started),
				CPU: s.rates.cpu("kubepods", u), Memory: memoryOf(u)})
		}
		if r.URL.Query().Get("only_cpu_and_memory") == "true" {
			sum.Node.Network, sum.Node.FS, sum.Node.Rlimit = nil, nil, nil
		}
		keep := map[string]bool{"node": true, "kubepods": true}
		for _, p := range s.runningByPod() {
			ps := podStats{PodRef: podReference{p.name, p.namespace, string(p.uid)}, StartTime: metav1.NewTime(p.started), Containers: []containerStats{}}
			for _, c := range p.containers {
				u, err := s.c.Groups.Container(p.uid, c.ID)
				if err != nil {
					continue // ended meanwhile
				}
				keep[c.ID] = true
				ps.Containers = append(ps.Containers, containerStats{Name: c.Name, StartTime: metav1.NewTime(c.Started), CPU: s.rates.cpu(c.ID, u), Memory: memoryOf(u)})
			}
			u, err := s.c.Groups.Pod(p.uid)
			if err != nil {
				continue
			}
			keep[string(p.uid)] = true
			ps.CPU, ps.Memory, ps.Processes = s.rates.cpu(string(p.uid), u), memoryOf(u), &processStats{u.Processes}
			if !p.hostNetwork {
				if pid, err := s.c.Groups.Process(p.uid); err == nil {
					ps.Network = network(filepath.Join("/proc", strconv.Itoa(pid), "net/dev"), "eth0", now)
				}
			}
			sum.Pods = append(sum.Pods, ps)
		}
		s.rates.keep(keep)
	}
	s.json(w, &sum)
}

// runningPod is a pod with the containers the runtime runs of it.
type runningPod struct {
	uid             types.UID
	name, namespace string
	started         time.Time
	hostNetwork     bool
	sandbox         string
	containers      []Instance
}

// runningByPod groups running containers by pod, in a fixed order.
func (s *server) runningByPod() []runningPod {
	at := map[types.UID]int{}
	var list []runningPod
	for _, i := range s.c.Backend.Instances() {
		if !i.Running {
			continue
		}
		n, ok := at[i.PodUID]
		if !ok {
			n = len(list)
			at[i.PodUID] = n
			p := runningPod{uid: i.PodUID, name: i.Pod, namespace: i.Namespace, started: i.Started}
			if pod := s.c.Backend.Pod(i.Namespace, i.Pod, i.PodUID); pod != nil {
				p.hostNetwork = pod.Spec.HostNetwork
				if pod.Status.StartTime != nil {
					p.started = pod.Status.StartTime.Time
				}
			}
			list = append(list, p)
		}
		if i.Name == "" {
			list[n].sandbox = i.ID
		} else {
			list[n].containers = append(list[n].containers, i)
		}
	}
	sort.Slice(list, func(a, b int) bool {
		return list[a].namespace+"/"+list[a].name < list[b].namespace+"/"+list[b].name
	})
	return list
}

// rates turns counters of CPU time into a rate, between one request and a later one.
type rates struct {
	mu   sync.Mutex // guards last
	last map[string]sample
}

type sample struct {
	at   time.Time
	cpu  time.Duration
	rate *uint64
}

// cpu is a group's CPU use with the rate since the last sample at least a second ago; no rate the first time.
func (r *rates) cpu(key string, u cgroups.Usage) *cpuStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]sample{}
	}
	old, ok := r.last[key]
	now := sample{at: u.At, cpu: u.CPU}
	switch passed := u.At.Sub(old.at); {
	case !ok || u.CPU < old.cpu:
	case passed < time.Second:
		now = old
	default:
		rate := uint64(float64(u.CPU-old.cpu) / passed.Seconds())
		now.rate = &rate
	}
	r.last[key] = now
	return &cpuStats{Time: metav1.NewTime(u.At), UsageNanoCores: now.rate, UsageCoreNanoSeconds: uint64(u.CPU)}
}

// keep forgets all others.
func (r *rates) keep(keys map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.last {
		if !keys[k] {
			delete(r.last, k)
		}
	}
}

func memoryOf(u cgroups.Usage) *memoryStats {
	m := &memoryStats{Time: metav1.NewTime(u.At), UsageBytes: u.Memory, WorkingSetBytes: u.WorkingSet, RSSBytes: u.RSS, PageFaults: u.PageFaults, MajorPageFaults: u.MajorPageFaults}
	if u.MemoryLimit > u.WorkingSet {
		left := u.MemoryLimit - u.WorkingSet
		m.AvailableBytes = &left
	}
	return m
}

// nodeUsage is the whole machine's, from /proc: the top group of v2 has no files of its own.
func nodeUsage() cgroups.Usage {
	u := cgroups.Usage{At: time.Now()}
	const tick = time.Second / 100 // USER_HZ
	lines("/proc/stat", func(f []string) bool {
		if f[0] != "cpu" {
			return true
		}
		for i, v := range f[1:] {
			// user nice system idle iowait irq softirq steal; guest time is in user already
			if i == 3 || i == 4 || i > 7 {
				continue
			}
			n, _ := strconv.ParseUint(v, 10, 64)
			u.CPU += time.Duration(n) * tick
		}
		return false
	})
	m := map[string]uint64{}
	lines("/proc/meminfo", func(f []string) bool {
		if len(f) > 1 {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			m[strings.TrimSuffix(f[0], ":")] = n << 10
		}
		return true
	})
	u.Memory = m["MemTotal"] - m["MemFree"]
	u.WorkingSet = u.Memory - min(u.Memory, m["Inactive(file)"])
	u.RSS, u.Cache, u.Swap = m["AnonPages"], m["Cached"], m["SwapTotal"]-m["SwapFree"]
	lines("/proc/vmstat", func(f []string) bool {
		if len(f) == 2 {
			switch f[0] {
			case "pgfault":
				u.PageFaults, _ = strconv.ParseUint(f[1], 10, 64)
			case "pgmajfault":
				u.MajorPageFaults, _ = strconv.ParseUint(f[1], 10, 64)
			}
		}
		return true
	})
	return u
}

func memoryTotal() (total uint64) {
	lines("/proc/meminfo", func(f []string) bool {
		if f[0] == "MemTotal:" && len(f) > 1 {
			total, _ = strconv.ParseUint(f[1], 10, 64)
			total <<= 10
			return false
		}
		return true
	})
	return total
}

func bootTime() (t time.Time) {
	lines("/proc/stat", func(f []string) bool {
		if f[0] == "btime" && len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			t = time.Unix(n, 0)
			return false
		}
		return true
	})
	return t
}

// lines calls f with the fields of each line that has any, until it returns false.
func lines(path string, f func([]string) bool) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(make([]byte, 0, 16<<10), 1<<20)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 0 && !f(fields) {
			return
		}
	}
}

// network reads interface counters (proc_net_dev); the loopback interface is left out.
func network(path, main string, now time.Time) *networkStats {
	n := &networkStats{Time: metav1.NewTime(now)}
	lines(path, func(f []string) bool {
		name, first, ok := strings.Cut(f[0], ":")
		if !ok || name == "lo" {
			return true
		}
		if first != "" {
			f = append([]string{name, first}, f[1:]...)
		}
		if len(f) < 12 {
			return true
		}
		number := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		i := interfaceStats{Name: name, RxBytes: number(1), RxErrors: number(3), TxBytes: number(9), TxErrors: number(11)}
		if name == main || n.Name == "" {
			n.interfaceStats = i
		}
		n.Interfaces = append(n.Interfaces, i)
		return true
	})
	if len(n.Interfaces) == 0 {
		return nil
	}
	return n
}

// defaultInterface is that of the IPv4 default route; empty if there is none.
func defaultInterface() (name string) {
	lines("/proc/self/net/route", func(f []string) bool {
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			name = f[0]
			return false
		}
		return true
	})
	return name
}

func fileSystem(dir string, now time.Time) *fsStats {
	if dir == "" {
		dir = "/"
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return nil
	}
	size := uint64(st.Bsize)
	return &fsStats{Time: metav1.NewTime(now), AvailableBytes: st.Bavail * size, CapacityBytes: st.Blocks * size,
		UsedBytes: (st.Blocks - st.Bfree) * size, InodesFree: st.Ffree, Inodes: st.Files, InodesUsed: st.Files - st.Ffree}
}

func processLimits(now time.Time) *rlimitStats {
	r := &rlimitStats{Time: metav1.NewTime(now)}
	lines("/proc/sys/kernel/pid_max", func(f []string) bool {
		r.MaxPID, _ = strconv.ParseInt(f[0], 10, 64)
		return false
	})
	lines("/proc/loadavg", func(f []string) bool {
		if len(f) > 3 {
			_, all, _ := strings.Cut(f[3], "/")
			r.Procs, _ = strconv.ParseInt(all, 10, 64)
		}
		return false
	})
	return r
}

// seconds is a time as metrics give it.
func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
