package containerd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Config says where one containerd lives. Several may run side by side: nothing of it is outside these directories.
type Config struct {
	Executable   string // containerd itself; "" is the one in BinDir
	Root         string // persistent state: images, snapshots, metadata
	State        string // gone with a reboot: sockets, pid file, bundles. At most 40 characters, for the shims' sockets lie below it
	BinDir       string // holds containerd, the shim, runc and the built-in CNI plugin
	CNIBinDirs   []string
	CNIConfDir   string
	RegistryDir  string // hosts.toml directories by registry (containerd's certs.d); may be missing
	SandboxImage string
	LogFile      string
}

// Address is the path of the socket that serves CRI and containerd's own API.
func (c Config) Address() string { return filepath.Join(c.State, "c.sock") }

// Endpoint is Address as kubelets write it.
func (c Config) Endpoint() string { return "unix://" + c.Address() }

// The choices that are not defaults, and why:
//   - bolt no_sync: a pod start fsyncs the metadata some twenty times. The metadata only says which images and
//     containers are on this machine; what was acknowledged to a user is in etcd, and after a power cut no
//     container runs. Start throws the metadata away should it not open after a reboot (docs/decisions).
//   - stats periods: the kubelet reads cgroups itself when asked; nobody needs a sample every second.
//   - runc's Root: runc would keep its own state in /run/containerd, which belongs to nobody here.
//   - netns_mounts_under_state_dir: all mounts of one node stay below its own directory.
//   - discard_unpacked_layers: a layer is kept once, unpacked.
//   - stream processors: containerd's own; encrypted images work where ctd-decoder is installed.
const configText = `version = 4
root = ${Root}
state = ${State}
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri"]

[plugins.'io.containerd.server.v1.grpc']
address = ${Address}

[plugins.'io.containerd.server.v1.ttrpc']
address = ${TTRPC}

[plugins.'io.containerd.metadata.v1.bolt']
no_sync = true

[plugins.'io.containerd.internal.v1.opt']
path = ${Opt}

[plugins.'io.containerd.shim.v1.manager']
socket_dir = ${ShimDir}

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"
discard_unpacked_layers = true
max_concurrent_downloads = 5
stats_collect_period = 600

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = ${Sandbox}

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = ${Registry}

[plugins.'io.containerd.cri.v1.runtime']
enable_criu = false
disable_apparmor = ${NoAppArmor}
restrict_oom_score_adj = ${RestrictOOM}
netns_mounts_under_state_dir = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
stats_collect_period = "10m"
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [${CNIBins}]
conf_dir = ${CNIConf}
max_conf_num = 1
use_internal_loopback = true

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = ${Shim}

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = ${Runc}
Root = ${RuncRoot}
SystemdCgroup = false

[plugins.'io.containerd.grpc.v1.cri']
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[stream_processors.'io.containerd.ocicrypt.decoder.v1.tar.gzip']
accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar+gzip"
path = "ctd-decoder"
args = ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"]
env = ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"]

[stream_processors.'io.containerd.ocicrypt.decoder.v1.tar']
accepts = ["application/vnd.oci.image.layer.v1.tar+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar"
path = "ctd-decoder"
args = ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"]
env = ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"]
`

// render returns the configuration file's text. Paths are quoted as TOML strings (Go's quoting is a subset).
func (c Config) render() []byte {
	q := strconv.Quote
	bins := make([]string, len(c.CNIBinDirs))
	for i, d := range c.CNIBinDirs {
		bins[i] = q(d)
	}
	values := map[string]string{
		"Root": q(c.Root), "State": q(c.State), "Address": q(c.Address()), "TTRPC": q(c.Address() + ".ttrpc"),
		"Opt": q(filepath.Join(c.Root, "opt")), "ShimDir": q(filepath.Join(c.State, "s")), "Sandbox": q(c.SandboxImage),
		"Registry": q(c.RegistryDir), "CNIBins": strings.Join(bins, ", "), "CNIConf": q(c.CNIConfDir),
		"Shim": q(filepath.Join(c.BinDir, "containerd-shim-runc-v2")), "Runc": q(filepath.Join(c.BinDir, "runc")),
		"RuncRoot":   q(filepath.Join(c.State, "runc")),
		"NoAppArmor": strconv.FormatBool(!appArmorEnabled()), "RestrictOOM": strconv.FormatBool(!hasCapSysResource()),
	}
	return []byte(os.Expand(configText, func(name string) string { return values[name] }))
}

func appArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y")
}

// hasCapSysResource reports whether this process may lower oom_score_adj, as Guaranteed pods ask for.
func hasCapSysResource() bool {
	const capSysResource = 24 // linux/capability.h
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && bits&(1<<capSysResource) != 0
		}
	}
	return false
}
