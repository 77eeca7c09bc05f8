// Package daemon is containerd with the plugins that a Kubernetes node needs, as a program of its own (docs/decisions). Only
// cmd/containerd and tests may import it.
package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/grpclog"

	"wherry.dev/wherry/internal/memory"

	// What a Kubernetes node needs of containerd, and no more: CRI over runc's shim on overlayfs. Each registers itself.
	_ "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/core/metrics"
	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/cri"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/mount"
	_ "github.com/containerd/containerd/v2/plugins/nri"
	_ "github.com/containerd/containerd/v2/plugins/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/server/debug"
	_ "github.com/containerd/containerd/v2/plugins/server/grpc"
	_ "github.com/containerd/containerd/v2/plugins/server/metrics"
	_ "github.com/containerd/containerd/v2/plugins/server/ttrpc"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/healthcheck"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/mounts"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/opt"
	_ "github.com/containerd/containerd/v2/plugins/services/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/streaming"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/transfer"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
	_ "github.com/containerd/containerd/v2/plugins/streaming"
	_ "github.com/containerd/containerd/v2/plugins/transfer"
)

// Main is the body of the program: args are "--config FILE". It runs until SIGTERM or SIGINT; SIGUSR1 writes every goroutine's stack to
// the log. It returns the exit code.
func Main(args []string) int {
	if len(args) != 2 || args[0] != "--config" {
		fmt.Fprintln(os.Stderr, "containerd: usage: containerd --config FILE")
		return 2
	}
	if err := outlast(); err != nil {
		fmt.Fprintf(os.Stderr, "containerd: %v\n", err)
		return 1
	}
	if err := serve(args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "containerd: %v\n", err)
		return 1
	}
	return 0
}

func serve(configFile string) error {
	began := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGPIPE) // whoever reads the log may be gone
	go dumpStacks()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))

	config := &srvconfig.Config{Version: version.ConfigVersion}
	if err := srvconfig.LoadConfig(ctx, configFile, config); err != nil {
		return fmt.Errorf("read %s: %w", configFile, err)
	}
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	if err := server.CreateTopLevelDirectories(config); err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	if err := mount.SetTempMountLocation(filepath.Join(config.Root, "tmpmounts")); err != nil {
		return fmt.Errorf("make the place for temporary mounts: %w", err)
	}
	// What an earlier process left mounted there.
	warnings, err := mount.CleanupTempMounts(0)
	for _, w := range append(warnings, err) {
		if w != nil {
			log.G(ctx).WithError(w).Warn("unmount what was left behind")
		}
	}

	log.G(ctx).WithField("version", version.Version).Info("starting containerd")
	made := make(chan error, 1)
	var s *server.Server
	go func() {
		// Not to be interrupted: while another process has the metadata open, this waits for it.
		var err error
		s, err = server.New(ctx, config)
		made <- err
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-made:
		if err != nil {
			return err
		}
	}
	defer s.Stop()
	if err := s.Start(ctx); err != nil {
		return err
	}
	ready := make(chan struct{})
	go func() { s.Wait(); close(ready) }()
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.G(ctx).WithError(err).Warn("say that containerd is ready")
	}
	log.G(ctx).WithField("after", time.Since(began)).Info("containerd is ready")
	return memory.GiveBack(ctx, nil)
}

// dumpStacks writes all stacks to the log at each SIGUSR1, for whoever looks for a deadlock.
func dumpStacks() {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	for range usr1 {
		buf := make([]byte, 4<<20)
		log.L.Infof("all goroutines:\n%s", buf[:runtime.Stack(buf, true)])
	}
}
