package node

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine tells what the node is made of.
type Machine interface {
	// Facts do not change while the kubelet runs.
	Facts() (Facts, error)
	// Load is how much is free just now.
	Load() (Load, error)
}

// Facts are what a machine has. Amounts are in bytes.
type Facts struct {
	MachineID, SystemUUID, BootID string
	Kernel, OSImage               string
	CPUs, Memory, Swap            int64
	NodeFSBytes                   int64
	HugePages                     map[int64]int64 // bytes reserved, by page size
}

// Load is what is free.
type Load struct {
	Memory, MemoryAvailable        int64
	NodeFSBytes, NodeFSAvailable   int64
	NodeFSInodes, NodeFSInodesFree int64
	PIDs, MaxPIDs                  int64
}

// host is the machine we run on. root is the directory whose file system counts as the node's.
type host struct{ root string }

func (h host) Facts() (Facts, error) {
	f := Facts{
		MachineID:  firstLine("/etc/machine-id", "/var/lib/dbus/machine-id"),
		SystemUUID: firstLine("/sys/class/dmi/id/product_uuid", "/proc/device-tree/vm,uuid", "/sys/hypervisor/uuid"),
		BootID:     firstLine("/proc/sys/kernel/random/boot_id"),
		OSImage:    osImage(),
		CPUs:       onlineCPUs(),
		HugePages:  map[int64]int64{},
	}
	if f.SystemUUID == "" {
		f.SystemUUID = f.MachineID
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Facts{}, fmt.Errorf("uname: %w", err)
	}
	f.Kernel = unix.ByteSliceToString(u.Release[:])
	memory, err := meminfo()
	if err != nil {
		return Facts{}, err
	}
	f.Memory, f.Swap = memory["MemTotal"], memory["SwapTotal"]
	var st unix.Statfs_t
	if err := unix.Statfs(h.dir(), &st); err != nil {
		return Facts{}, fmt.Errorf("examine file system of %s: %w", h.dir(), err)
	}
	f.NodeFSBytes = int64(st.Blocks) * st.Bsize
	sizes, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Facts{}, fmt.Errorf("list huge page sizes: %w", err)
	}
	for _, s := range sizes {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(s.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(firstLine(filepath.Join("/sys/kernel/mm/hugepages", s.Name(), "nr_hugepages")), 10, 64)
		if err == nil {
			f.HugePages[kb<<10] = count * kb << 10
		}
	}
	return f, nil
}

func (h host) dir() string {
	if h.root == "" {
		return "/"
	}
	return h.root
}

func (h host) Load() (Load, error) {
	memory, err := meminfo()
	if err != nil {
		return Load{}, err
	}
	l := Load{Memory: memory["MemTotal"], MemoryAvailable: memory["MemAvailable"]}
	var st unix.Statfs_t
	if err := unix.Statfs(h.dir(), &st); err != nil {
		return Load{}, fmt.Errorf("examine file system of %s: %w", h.dir(), err)
	}
	l.NodeFSBytes, l.NodeFSAvailable = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	l.NodeFSInodes, l.NodeFSInodesFree = int64(st.Files), int64(st.Ffree)
	// The fourth field of loadavg is "runnable/all"; every thread has a process ID.
	if fields := strings.Fields(firstLine("/proc/loadavg")); len(fields) > 3 {
		_, all, _ := strings.Cut(fields[3], "/")
		l.PIDs, _ = strconv.ParseInt(all, 10, 64)
	}
	l.MaxPIDs, _ = strconv.ParseInt(firstLine("/proc/sys/kernel/pid_max"), 10, 64)
	return l, nil
}

// firstLine is the first line of the first file that can be read, without white space; else empty.
func firstLine(paths ...string) string {
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil {
			line, _, _ := bytes.Cut(b, []byte("\n"))
			if s := strings.Trim(string(line), " \t\r\x00"); s != "" {
				return s
			}
		}
	}
	return ""
}

// osImage is the distribution's name of itself (os-release(5)).
func osImage() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}

// onlineCPUs counts the machine's processors, of which this process may be allowed only some.
func onlineCPUs() int64 {
	var n int64
	for part := range strings.SplitSeq(firstLine("/sys/devices/system/cpu/online"), ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return int64(runtime.NumCPU())
		}
		b := a
		if isRange {
			if b, err = strconv.ParseInt(last, 10, 64); err != nil || b < a {
				return int64(runtime.NumCPU())
			}
		}
		n += b - a + 1
	}
	return n
}

// meminfo reads /proc/meminfo into bytes by name.
func meminfo() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory information: %w", err)
	}
	defer f.Close()
	m := map[string]int64{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		name, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		number, unit, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if n, err := strconv.ParseInt(number, 10, 64); err == nil {
			if unit == "kB" {
				n <<= 10
			}
			m[name] = n
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read memory information: %w", err)
	}
	return m, nil
}
