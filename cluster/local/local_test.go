package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// private marks the process that has a network namespace and mounts of its own: empty directories where clusters live.
const private = "WHERRY_TEST_LOCAL"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "server" && slices.Contains(os.Args, "--fail"):
		fmt.Fprintln(os.Stderr, "wherry: the API's port is taken: choose another with --port")
		os.Exit(1)
	case len(os.Args) > 1 && (os.Args[1] == "server" || os.Args[1] == "agent"):
		time.Sleep(time.Minute) // a node that never becomes Ready; it is killed, or ends by itself
		os.Exit(1)
	case os.Getuid() != 0:
		os.Exit(m.Run())
	case os.Getenv(private) == "":
		os.Exit(inPrivate())
	}
	// Over directories that nobody removes: with dataRoot itself, which the last cluster's down removes, a mount on it would go in here too.
	for _, dir := range []string{filepath.Dir(dataRoot), filepath.Dir(runRoot)} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount over", dir, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// inPrivate runs the tests in namespaces of their own; whatever they mount goes with them.
func inPrivate() int {
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), private+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func needPrivate(t *testing.T) {
	t.Helper()
	if os.Getenv(private) == "" {
		t.Skip("needs root, for namespaces and mounts of its own")
	}
}

// nothingLeft looks for whatever a cluster of that name could have left behind.
func nothingLeft(t *testing.T, name string) {
	t.Helper()
	for _, dir := range []string{dataRoot, runRoot} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("%s is left in %s", e.Name(), dir)
		}
	}
	if locks, err := filepath.Glob(runRoot + "*.lock"); err != nil || len(locks) > 0 {
		t.Errorf("locks %v are left (%v)", locks, err)
	}
	c := &Cluster{Name: name, Nodes: 3}
	if pids, err := c.processes(); err != nil || len(pids) > 0 {
		t.Errorf("processes %v are left (%v)", pids, err)
	}
	if dirs, err := cgroupDirs(c.cgroupRoot()); err != nil || len(dirs) > 0 {
		t.Errorf("cgroups %v are left (%v)", dirs, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			t.Errorf("interface %s is left", l.Attrs().Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), "/"+name+"/") {
		t.Errorf("mounts are left (%v): %s", err, mounts)
	}
}

func TestUpThatFailsLeavesNothing(t *testing.T) {
	needPrivate(t)
	const name = "t4-fails"
	t.Run("a server that ends", func(t *testing.T) {
		kubeconfig := filepath.Join(t.TempDir(), "config")
		_, err := Up(t.Context(), UpOptions{Name: name, Nodes: 2, Kubeconfig: kubeconfig, ServerArgs: []string{"--fail"}})
		if err == nil || !strings.Contains(err.Error(), "node t4-fails-1 ended: wherry: the API's port is taken: choose another with --port") {
			t.Errorf("error %v does not say what the server said", err)
		}
		if _, err := os.Stat(kubeconfig); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("kubeconfig: %v", err)
		}
		nothingLeft(t, name)
	})
	t.Run("a user who loses patience", func(t *testing.T) {
		data := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // cancel once both nodes' processes run
			c := &Cluster{Name: name, Nodes: 2}
			for pids := []int{}; len(pids) < 2 && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				pids, _ = c.processes()
			}
			cancel()
		}()
		if _, err := Up(ctx, UpOptions{Name: name, Nodes: 2, DataDir: data}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		nothingLeft(t, name)
		if entries, err := os.ReadDir(data); err != nil || len(entries) > 0 {
			t.Errorf("the user's own directory holds %v (%v), want it as it was: there, and empty", entries, err)
		}
	})
}

func TestWhatIsInTheWay(t *testing.T) {
	needPrivate(t)
	const name = "t4-way"
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(full, "precious")
	for what, c := range map[string]struct {
		options UpOptions
		want    string
	}{
		"a directory in use": {UpOptions{Name: name, DataDir: full}, "data directory " + full + " holds files that are not a cluster's: choose an empty or new one"},
		"a file":             {UpOptions{Name: name, DataDir: file}, "data directory " + file + " is a file: choose another --data-dir"},
		"an impossible name": {UpOptions{Name: "Not_a_name"}, `cluster name "Not_a_name": use at most 18 lower-case letters, digits and dashes, beginning and ending with a letter or digit`},
		"too many nodes":     {UpOptions{Name: name, Nodes: 201}, "201 nodes: a cluster on this machine has 1 to 200"},
		"less than no nodes": {UpOptions{Name: name, Nodes: -1}, "-1 nodes: a cluster on this machine has 1 to 200"},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := Up(t.Context(), c.options); err == nil || err.Error() != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
			nothingLeft(t, name)
			if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
				t.Errorf("the file that was there: %q, %v", b, err)
			}
		})
	}
}

func TestRecord(t *testing.T) {
	needPrivate(t)
	const name = "t4-rec"
	home := filepath.Join(dataRoot, name)
	elsewhere := filepath.Join(t.TempDir(), "new")
	down := func(t *testing.T) {
		t.Helper()
		if err := Down(t.Context(), name, "", ""); err != nil {
			t.Fatal(err)
		}
		nothingLeft(t, name)
	}
	t.Run("default directory", func(t *testing.T) {
		if _, err := create(name, "", "10.201.7.0/24", 3); err != nil {
			t.Fatal(err)
		}
		c, err := load(name, "")
		if err != nil || c.Nodes != 3 || c.Subnet != "10.201.7.0/24" || c.DataDir() != home || c.NodeIP(2).String() != "10.201.7.12" || c.NodeName(2) != "t4-rec-2" {
			t.Fatalf("%+v, %v", c, err)
		}
		if all, err := names(); err != nil || !slices.Equal(all, []string{name}) {
			t.Errorf("names %v, %v", all, err)
		}
		down(t)
		if _, err := load(name, ""); !errors.Is(err, ErrNoCluster) {
			t.Error(err)
		}
	})
	t.Run("directory of the user's", func(t *testing.T) {
		if _, err := create(name, elsewhere, "10.201.7.0/24", 1); err != nil {
			t.Fatal(err)
		}
		if c, err := load(name, ""); err != nil || c.DataDir() != elsewhere {
			t.Fatalf("by name alone: %+v, %v", c, err)
		}
		if _, err := load("other", elsewhere); err == nil || !strings.Contains(err.Error(), `belongs to cluster "t4-rec", not to "other": choose another --data-dir`) {
			t.Error(err)
		}
		if _, err := create(name, t.TempDir(), "10.201.8.0/24", 1); err == nil || !strings.Contains(err.Error(), "leave out --data-dir, or choose another --name") {
			t.Error(err)
		}
		if err := Down(t.Context(), name, t.TempDir(), ""); !errors.Is(err, ErrNoCluster) {
			t.Error(err)
		}
		if _, err := load(name, ""); err != nil {
			t.Errorf("down with a wrong directory harmed the cluster: %v", err)
		}
		down(t)
		if _, err := os.Stat(elsewhere); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the directory that we made: %v", err)
		}
	})
	t.Run("starts that ended at once", func(t *testing.T) {
		for what, leave := range map[string]func() error{
			"an empty directory": func() error { return os.MkdirAll(filepath.Join(home, "logs"), 0o700) },
			"half a record": func() error {
				return errors.Join(os.MkdirAll(home, 0o700), os.WriteFile(filepath.Join(home, "cluster.json.new"), []byte("{"), 0o600))
			},
			"a link to nothing": func() error { return errors.Join(os.MkdirAll(dataRoot, 0o755), os.Symlink(elsewhere, home)) },
		} {
			dir := ""
			if what == "a link to nothing" {
				dir = elsewhere
			}
			for range 2 { // the first goes on, the second gives up
				if err := leave(); err != nil {
					t.Fatal(what, err)
				}
				if _, err := create(name, dir, "10.201.7.0/24", 1); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				down(t)
				if err := leave(); err != nil {
					t.Fatal(what, err)
				}
				if err := Down(t.Context(), name, "", ""); !errors.Is(err, ErrNoCluster) {
					t.Errorf("%s: %v", what, err)
				}
				nothingLeft(t, name)
			}
		}
	})
	t.Run("a damaged record", func(t *testing.T) {
		for _, text := range []string{"{", "{}", `{"name":"t4-rec","subnet":"nonsense","nodes":1}`, `{"name":"t4-rec","subnet":"10.201.7.0/24","nodes":1000000000}`} {
			if err := errors.Join(os.MkdirAll(home, 0o700), os.WriteFile(filepath.Join(home, "cluster.json"), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			if _, err := load(name, ""); err == nil || !strings.Contains(err.Error(), "is damaged") {
				t.Errorf("%s: %v", text, err)
			}
		}
		if err := os.RemoveAll(home); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSubnets(t *testing.T) {
	needPrivate(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 201, 0, 0), Mask: net.CIDRMask(23, 32)}, Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer netlink.RouteDel(route)
	if got, err := chooseSubnet(map[string]bool{"10.201.2.0/24": true}); err != nil || got != "10.201.3.0/24" {
		t.Errorf("%s, %v", got, err)
	}
	all := map[string]bool{}
	for i := range 256 {
		all[fmt.Sprintf("10.201.%d.0/24", i)] = true
	}
	if _, err := chooseSubnet(all); err == nil || !strings.Contains(err.Error(), "wherry down") {
		t.Error(err)
	}
}

func TestKubeconfigEntryComesAndGoes(t *testing.T) {
	needPrivate(t)
	const name = "t4-kube"
	file := filepath.Join(t.TempDir(), "config")
	mine := clientcmdapi.NewConfig()
	mine.Clusters["mine"], mine.Contexts["mine"], mine.CurrentContext = &clientcmdapi.Cluster{Server: "https://mine.example"}, &clientcmdapi.Context{Cluster: "mine"}, "mine"
	if err := clientcmd.WriteToFile(*mine, file); err != nil {
		t.Fatal(err)
	}
	c, err := create(name, "", "10.201.7.0/24", 1)
	if err != nil {
		t.Fatal(err)
	}
	admin := clientcmdapi.NewConfig()
	admin.Clusters[c.context()], admin.Contexts[c.context()], admin.CurrentContext = &clientcmdapi.Cluster{Server: c.serverURL()}, &clientcmdapi.Context{Cluster: c.context()}, c.context()
	b, err := clientcmd.Write(*admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.writeKubeconfig(UpOptions{Kubeconfig: file}, b); err != nil {
		t.Fatal(err)
	}
	if got := Kubeconfig(name, ""); got != file {
		t.Errorf("remembered %q, want %q", got, file)
	}
	read := func() *clientcmdapi.Config {
		t.Helper()
		k, err := clientcmd.LoadFromFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if k := read(); k.CurrentContext != "wherry-t4-kube" || k.Clusters["wherry-t4-kube"].Server != "https://10.201.7.11:6443" || k.Clusters["mine"] == nil {
		t.Errorf("after up: %+v", k)
	}
	if err := Down(t.Context(), name, "", ""); err != nil {
		t.Fatal(err)
	}
	if k := read(); k.Clusters["wherry-t4-kube"] != nil || k.Contexts["wherry-t4-kube"] != nil || k.Clusters["mine"] == nil || k.CurrentContext == "wherry-t4-kube" {
		t.Errorf("after down: %+v", k)
	}
	nothingLeft(t, name)
}
