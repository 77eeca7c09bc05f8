package local

import (
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Finding is the result of one preflight check.
type Finding struct {
	Check string `json:"check"`
	OK    bool   `json:"ok"`
	Found string `json:"found,omitempty"`
	Mend  string `json:"mend,omitempty"` // what to do about it; empty when OK
}

// freeSpace is what a fresh cluster needs of the disk: programs, images and etcd's log.
const freeSpace = 1 << 30

// Check looks for what a node needs of this machine, and changes nothing.
func Check() []Finding {
	findings := []Finding{
		finding("root", os.Getuid() == 0, fmt.Sprintf("uid %d", os.Getuid()), "run it as root, or with sudo"),
		checkCgroups(),
		checkFilesystem("overlayfs", "overlay"),
		checkNftables(),
		checkDisk("/var/lib"),
		checkNamespaces(),
	}
	return findings
}

func finding(check string, ok bool, found, mend string) Finding {
	if ok {
		mend = ""
	}
	return Finding{Check: check, OK: ok, Found: found, Mend: mend}
}

func checkCgroups() Finding {
	const mend = "mount the cgroup v2 hierarchy at /sys/fs/cgroup, with the cpu, memory and pids controllers"
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err == nil {
		ok := true
		for _, want := range []string{"cpu", "memory", "pids"} {
			ok = ok && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+want+" ")
		}
		return finding("cgroups", ok, "v2 with "+strings.TrimSpace(string(b)), mend)
	}
	for _, want := range []string{"cpu", "memory", "pids", "freezer"} {
		if !isDir("/sys/fs/cgroup/" + want) {
			return finding("cgroups", false, "no v2, and v1 lacks "+want, mend)
		}
	}
	return finding("cgroups", true, "v1", "")
}

func checkFilesystem(check, name string) Finding {
	b, err := os.ReadFile("/proc/filesystems")
	ok := err == nil && strings.Contains(string(b), "\t"+name+"\n")
	return finding(check, ok, "", "load the kernel module: modprobe "+name)
}

func checkNftables() Finding {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	found := ""
	if err != nil {
		found = err.Error()
	}
	return finding("nftables", err == nil, found, "use a kernel with CONFIG_NF_TABLES (modprobe nf_tables), and root")
}

func checkDisk(path string) Finding {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return finding("disk", false, err.Error(), "make "+path+" readable")
	}
	free := st.Bavail * uint64(st.Bsize)
	return finding("disk", free >= freeSpace, fmt.Sprintf("%.1f GiB free below %s", float64(free)/(1<<30), path), "free at least 1 GiB, or choose another --data-dir")
}

func checkNamespaces() Finding {
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			return finding("namespaces", false, "no "+kind+" namespaces", "use a kernel with namespaces")
		}
	}
	return finding("namespaces", true, "", "")
}

// failedChecks makes one error of what is wrong, nil when nothing is.
func failedChecks(findings []Finding) error {
	var wrong []string
	for _, f := range findings {
		if !f.OK {
			wrong = append(wrong, fmt.Sprintf("%s: %s: %s", f.Check, f.Found, f.Mend))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("this machine is not fit for a node: %s", strings.Join(wrong, "; "))
}
