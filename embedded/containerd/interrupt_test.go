package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"wherry.dev/wherry/embedded/images"
)

// slowRunc stands in runc's place: while the file hold-COMMAND exists, it says that runc has done COMMAND by making the file at-COMMAND and
// does not return before hold-COMMAND is gone.
const slowRunc = `#!/bin/sh
%[1]s/runc "$@"
code=$?
for word in "$@"; do
	case "$word" in
	create|start)
		if [ -e %[2]s/hold-$word ]; then
			: > %[2]s/at-$word
			while [ -e %[2]s/hold-$word ]; do sleep 0.01; done
		fi
		break ;;
	esac
done
exit $code
`

// slowCNI gives out an address that nobody uses.
const slowCNI = `#!/bin/sh
sleep 0.02
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.2/32"}]}'
exit 0
`

// interrupted is a containerd whose runc can be held, with a client that can leave.
type interrupted struct {
	t     *testing.T
	cri   cri.RuntimeServiceClient
	state string
	made  int
}

func newInterrupted(t *testing.T) *interrupted {
	c := testConfig(t)
	bin := filepath.Join(c.State, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	// A copy: the shim executes its own path again.
	from, err := os.Open(filepath.Join(c.BinDir, "containerd-shim-runc-v2"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(bin, "containerd-shim-runc-v2"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "runc"), fmt.Appendf(nil, slowRunc, c.BinDir, c.State), 0o755); err != nil {
		t.Fatal(err)
	}
	c.BinDir, c.Executable = bin, filepath.Join(c.BinDir, Program)
	if err := errors.Join(os.WriteFile(filepath.Join(c.BinDir, "slow-cni"), []byte(slowCNI), 0o755), os.MkdirAll(c.CNIConfDir, 0o755),
		os.WriteFile(filepath.Join(c.CNIConfDir, "10-test.conflist"), []byte(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"slow-cni"}]}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.CNIBinDirs = []string{c.BinDir}
	p, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		log, _ := os.ReadFile(c.LogFile)
		t.Fatalf("%v\n%s", err, log)
	}
	store, err := OpenImages(c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, i := range []images.Image{images.Sandbox, images.Sample} {
		archive, err := i.Open()
		if err != nil {
			t.Skip(err)
		}
		if _, err := store.Import(t.Context(), archive, true); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient("unix://"+c.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	in := &interrupted{t: t, cri: cri.NewRuntimeServiceClient(conn), state: c.State}
	t.Cleanup(func() {
		conn.Close()
		if t.Failed() {
			log, _ := os.ReadFile(c.LogFile)
			t.Logf("containerd: %s", log[max(0, len(log)-6000):])
		}
		for _, pid := range in.shims() { // of a test that failed
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		end(t, p)
		clearCgroup(t, in.cgroup())
		unmountBelow(c.State, c.Root)
	})
	return in
}

// cgroup is where the test's pods are; its name is the test's own.
func (in *interrupted) cgroup() string { return "/" + filepath.Base(in.state) }

func (in *interrupted) sandboxConfig() *cri.PodSandboxConfig {
	in.made++
	name := strconv.Itoa(in.made)
	return &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, LogDirectory: filepath.Join(in.state, "logs"),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: in.cgroup() + "/" + name, SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER}}}}
}

// container makes a sandbox and in it a container that is not started.
func (in *interrupted) container() (sandbox, container string) {
	in.t.Helper()
	config := in.sandboxConfig()
	s, err := in.cri.RunPodSandbox(in.t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		in.t.Fatal(err)
	}
	c, err := in.cri.CreateContainer(in.t.Context(), &cri.CreateContainerRequest{PodSandboxId: s.GetPodSandboxId(), SandboxConfig: config,
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: images.Sample.Name}, LogPath: "c.log", Linux: &cri.LinuxContainerConfig{}}})
	if err != nil {
		in.t.Fatal(err)
	}
	return s.GetPodSandboxId(), c.GetContainerId()
}

func (in *interrupted) stateOf(container string) cri.ContainerState {
	in.t.Helper()
	s, err := in.cri.ContainerStatus(in.t.Context(), &cri.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		in.t.Fatal(err)
	}
	return s.GetStatus().GetState()
}

// eventually waits for f to return nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// remove takes a sandbox away, as often as it takes, and looks that no process of it is left.
func (in *interrupted) remove(sandbox string) {
	in.t.Helper()
	eventually(in.t, func() error {
		_, err := in.cri.StopPodSandbox(in.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
		if err == nil {
			_, err = in.cri.RemovePodSandbox(in.t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
		}
		return err
	})
	eventually(in.t, in.nothingRuns)
}

// shims lists the processes of this containerd's shims and runc.
func (in *interrupted) shims() []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.HasPrefix(string(cmdline), filepath.Join(in.state, "bin")+"/") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// nothingRuns returns an error that says what of the pods still runs.
func (in *interrupted) nothingRuns() error {
	if pids := in.shims(); len(pids) > 0 {
		return fmt.Errorf("shims %v are left", pids)
	}
	for _, dir := range cgroupDirs(in.cgroup()) {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err == nil && len(procs) > 0 {
			return fmt.Errorf("processes %q are left in %s", procs, dir)
		}
	}
	return nil
}

// cgroupDirs lists a cgroup with all below it, in every hierarchy, children first.
func cgroupDirs(name string) []string {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + name)
	if _, err := os.Stat("/sys/fs/cgroup" + name); err == nil {
		tops = append(tops, "/sys/fs/cgroup"+name)
	}
	var dirs []string
	for _, top := range tops {
		_ = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil
		})
	}
	return dirs
}

func clearCgroup(t *testing.T, name string) {
	for _, dir := range cgroupDirs(name) { // what a failed test left
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for line := range strings.Lines(string(procs)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	eventually(t, func() error {
		for _, dir := range cgroupDirs(name) {
			if procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(procs) > 0 {
				return fmt.Errorf("%s still has processes", dir)
			}
		}
		return nil
	})
	for _, dir := range cgroupDirs(name) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("remove the test's cgroup: %v", err)
		}
	}
}

// unmountBelow detaches what a failed test left mounted.
func unmountBelow(dirs ...string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			for _, dir := range dirs {
				if strings.HasPrefix(fields[4], dir+"/") {
					_ = unix.Unmount(fields[4], unix.MNT_DETACH)
				}
			}
		}
	}
}

// TestStartOutlivesItsCaller: a client that is killed while its container is being started finds it started, and can remove it.
func TestStartOutlivesItsCaller(t *testing.T) {
	in := newInterrupted(t)
	for _, at := range []string{"create", "start"} {
		t.Run(at, func(t *testing.T) {
			sandbox, container := in.container()
			hold, there := filepath.Join(in.state, "hold-"+at), filepath.Join(in.state, "at-"+at)
			if err := os.WriteFile(hold, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(hold)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			answer := make(chan error, 1)
			go func() {
				_, err := in.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container})
				answer <- err
			}()
			eventually(t, func() error { _, err := os.Stat(there); return err })
			leave()
			if err := <-answer; err == nil {
				t.Fatal("the call did not end with its caller")
			}
			time.Sleep(50 * time.Millisecond) // what a runtime does wrong when its caller leaves, it does by now
			if err := os.Remove(hold); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if s := in.stateOf(container); s != cri.ContainerState_CONTAINER_RUNNING {
					return fmt.Errorf("the container is %s", s)
				}
				return nil
			})
			in.remove(sandbox)
		})
	}
}

// TestCallersLeaveAtAnyMoment: whenever a client leaves, what it began is done or undone, and can be removed without a trace.
func TestCallersLeaveAtAnyMoment(t *testing.T) {
	in := newInterrupted(t)
	began := time.Now()
	sandbox, container := in.container()
	sandboxTook := time.Since(began)
	began = time.Now()
	if _, err := in.cri.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: container}); err != nil {
		t.Fatal(err)
	}
	startTook := time.Since(began)
	in.remove(sandbox)
	const moments = 24
	for i := range moments {
		sandbox, container := in.container()
		ctx, leave := context.WithTimeout(t.Context(), startTook*time.Duration(i+1)/moments)
		_, err := in.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container})
		leave()
		t.Logf("start: %v after %v", err, startTook*time.Duration(i+1)/moments)
		in.remove(sandbox)
	}
	for i := range moments {
		ctx, leave := context.WithTimeout(t.Context(), sandboxTook*time.Duration(i+1)/moments)
		_, err := in.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: in.sandboxConfig()})
		leave()
		t.Logf("sandbox: %v after %v", err, sandboxTook*time.Duration(i+1)/moments)
		eventually(t, func() error {
			list, err := in.cri.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
			for _, s := range list.GetItems() {
				_, stop := in.cri.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: s.GetId()})
				_, remove := in.cri.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: s.GetId()})
				err = errors.Join(err, stop, remove)
			}
			return errors.Join(err, in.nothingRuns())
		})
	}
}
