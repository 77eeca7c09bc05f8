package containerd

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.dev/wherry/embedded/images"
	"wherry.dev/wherry/embedded/programs"
)

func testConfig(t *testing.T) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containerd needs root")
	}
	state, err := os.MkdirTemp("/run", "wct") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	root := t.TempDir()
	bin, err := programs.Unpack(filepath.Join(root, "bin"), Program, "containerd-shim-runc-v2", "runc")
	if err != nil {
		t.Skip(err)
	}
	return Config{Root: filepath.Join(root, "c"), State: state, BinDir: bin, CNIBinDirs: []string{bin}, CNIConfDir: filepath.Join(root, "net.d"),
		SandboxImage: images.Sandbox.Name, LogFile: filepath.Join(root, "containerd.log")}
}

// end kills a containerd that the test started and waits until it is gone.
func end(t *testing.T, p *Process) {
	t.Helper()
	_ = unix.Kill(p.PID(), unix.SIGKILL)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.wait(ctx); err != nil {
		t.Errorf("containerd %d did not end: %v", p.PID(), err)
	}
}

func TestStartAdoptImport(t *testing.T) {
	c := testConfig(t)
	ctx := t.Context()
	began := time.Now()
	first, err := Start(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		log, _ := os.ReadFile(c.LogFile)
		t.Fatalf("%v\n%s", err, log)
	}
	defer end(t, first)
	t.Logf("ready after %v", time.Since(began))
	second, err := Start(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if second.PID() != first.PID() {
		t.Errorf("second Start made process %d beside %d; want it adopted", second.PID(), first.PID())
	}

	store, err := OpenImages(c.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if store.Has(ctx, images.Sandbox.Name) {
		t.Error("an empty store has the sandbox image")
	}
	archive, err := images.Sandbox.Open()
	if err != nil {
		t.Skip(err)
	}
	began = time.Now()
	names, err := store.Import(ctx, archive, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("imported %v after %v", names, time.Since(began))
	if len(names) != 1 || names[0] != images.Sandbox.Name || !store.Has(ctx, images.Sandbox.Name) {
		t.Errorf("imported %v, has=%v; want %s", names, store.Has(ctx, images.Sandbox.Name), images.Sandbox.Name)
	}
}

func TestSupervise(t *testing.T) {
	c := testConfig(t)
	p, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Supervise(ctx) }()
	killed := p.PID()
	if err := unix.Kill(killed, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if pid, ok := Find(c); ok && pid != killed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("containerd was not started again within 20 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if pid, ok := Find(c); !ok {
		t.Errorf("Supervise's end took containerd %d with it", pid)
	}
	end(t, p)
}

func TestStartSaysWhy(t *testing.T) {
	c := testConfig(t)
	c.Executable, _ = exec.LookPath("false")
	if _, err := Start(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("a containerd that ends at once is no error")
	}
}
