// Package containerd runs containerd 2.x as a child process of its own, so that containers outlive a restart of Wherry, and
// imports images into it. Only cluster and cmd may import this package; the program itself is package daemon's.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is containerd's name among the unpacked programs.
const Program = "containerd"

// startTimeout bounds one start, from exec until containerd says that it is ready. It boots in 60 ms; a slow disk in seconds.
const startTimeout = 30 * time.Second

// Process is a running containerd: one that Start started, or one that it found and adopted.
type Process struct {
	config Config
	log    *slog.Logger
	pid    int
	pidfd  int // readable when the process has ended
}

// Start returns the containerd of these directories, starting one if none runs. It is ready when Start returns. The
// process is its own session and is not ended with the caller, nor by ctx.
func Start(ctx context.Context, c Config, log *slog.Logger) (*Process, error) {
	if n := len(c.State); n > 40 {
		return nil, fmt.Errorf("containerd state directory %q has %d characters; the shims' sockets leave room for 40", c.State, n)
	}
	p := &Process{config: c, log: log, pidfd: -1}
	if p.adopt(ctx) {
		log.Info("adopted running containerd", "pid", p.pid)
		return p, nil
	}
	err := p.start(ctx)
	if err != nil && ctx.Err() == nil && rebootedSince(c.Root) {
		// no_sync: after a power cut the metadata may be torn. Images are imported or pulled again, nothing else is lost.
		aside := c.Root + ".damaged"
		log.Warn("containerd does not start after a reboot; setting its store aside", "error", err, "aside", aside)
		if err := errors.Join(os.RemoveAll(aside), os.Rename(c.Root, aside)); err != nil {
			return nil, fmt.Errorf("set containerd's store aside: %w", err)
		}
		err = p.start(ctx)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the process's id at the moment of the call.
func (p *Process) PID() int { return p.pid }

// Endpoint is the CRI endpoint.
func (p *Process) Endpoint() string { return p.config.Endpoint() }

// Supervise starts containerd anew whenever it ends, until ctx ends. It leaves the running one alone then: containers
// outlive Wherry's restarts. Call it once, from one goroutine.
func (p *Process) Supervise(ctx context.Context) error {
	backoff := 100 * time.Millisecond
	for {
		if err := p.wait(ctx); err != nil {
			return nil // ctx ended
		}
		p.log.Error("containerd ended; starting it again", "pid", p.pid, "log", p.config.LogFile)
		for {
			began := time.Now()
			if err := p.start(ctx); err == nil {
				break
			} else if ctx.Err() != nil {
				return nil
			} else {
				p.log.Error("start containerd", "error", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(backoff):
			}
			if backoff = min(2*backoff, 10*time.Second); time.Since(began) > time.Minute {
				backoff = 100 * time.Millisecond
			}
		}
	}
}

// wait returns nil when the process has ended, or ctx's error.
func (p *Process) wait(ctx context.Context) error {
	// The pipe turns the end of ctx into an event that poll sees.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer unix.Close(pipe[0])
	stop := context.AfterFunc(ctx, func() { unix.Close(pipe[1]) })
	defer func() {
		if stop() {
			unix.Close(pipe[1])
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}, {Fd: int32(pipe[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return fmt.Errorf("poll: %w", err)
		}
		if fds[1].Revents != 0 {
			return ctx.Err()
		}
		if fds[0].Revents != 0 {
			// Reap it if it is our child; an adopted one is init's.
			var status unix.WaitStatus
			_, _ = unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
			return nil
		}
	}
}

func (c Config) pidFile() string { return filepath.Join(c.State, "containerd.pid") }

func (c Config) configFile() string { return filepath.Join(c.State, "containerd.toml") }

// adopt looks for a containerd that an earlier Wherry started here.
func (p *Process) adopt(ctx context.Context) bool {
	pid, ok := Find(p.config)
	if !ok {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	// It may just be starting; give it the time that Start would.
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.config.Address())
		if err == nil {
			conn.Close()
			p.pid, p.pidfd = pid, fd
			return true
		}
		if unix.PidfdSendSignal(fd, 0, nil, 0) != nil || ctx.Err() != nil {
			unix.Close(fd)
			return false
		}
		time.Sleep(wait) // bounded by startTimeout; a foreign process's socket gives no event
	}
}

// Find returns the pid of the containerd that runs over these directories, if one does.
func Find(c Config) (pid int, ok bool) {
	b, err := os.ReadFile(c.pidFile())
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	// A pid may be somebody else's by now: the command line must name our configuration.
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !strings.Contains(string(cmdline), "\x00"+c.configFile()+"\x00") {
		return 0, false
	}
	return pid, true
}

func (p *Process) start(ctx context.Context) error {
	c := p.config
	for dir, mode := range map[string]os.FileMode{c.Root: 0o711, c.State: 0o711, filepath.Dir(c.LogFile): 0o755, c.CNIConfDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make containerd's directories: %w", err)
		}
	}
	if err := os.WriteFile(c.configFile(), c.render(), 0o600); err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	logFile, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open containerd's log: %w", err)
	}
	defer logFile.Close()

	// systemd's notification protocol says when it is ready, without a poll (sd_notify(3)).
	notifyPath := filepath.Join(c.State, "notify.sock")
	_ = os.Remove(notifyPath)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifyPath, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen for containerd's readiness: %w", err)
	}
	defer notify.Close()

	executable := c.Executable
	if executable == "" {
		executable = filepath.Join(c.BinDir, Program)
	}
	cmd := exec.Command(executable, "--config", c.configFile())
	cmd.Args[0] = Program
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Dir = "/"
	cmd.Env = childEnv(c.BinDir, notifyPath)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: new(int)}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
	}
	p.pid = cmd.Process.Pid
	defer func() { _ = cmd.Process.Release() }() // wait reaps it through the pidfd
	if p.pidfd = *cmd.SysProcAttr.PidFD; p.pidfd < 0 {
		if p.pidfd, err = unix.PidfdOpen(p.pid, 0); err != nil {
			return fmt.Errorf("watch containerd: %w", err)
		}
	}
	if err := os.WriteFile(c.pidFile(), []byte(strconv.Itoa(p.pid)), 0o600); err != nil {
		_ = unix.Kill(p.pid, unix.SIGKILL)
		return fmt.Errorf("write containerd's pid: %w", err)
	}

	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		buf := make([]byte, 256)
		for {
			n, err := notify.Read(buf) // ends when notify is closed
			if err != nil || strings.Contains(string(buf[:n]), "READY=1") {
				ready <- err
				return
			}
		}
	}()
	ended := make(chan error, 1)
	waitCtx, stopWait := context.WithCancel(ctx)
	go func() { ended <- p.wait(waitCtx) }()
	defer func() { stopWait(); <-ended }()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("read containerd's readiness: %w", err)
		}
		if err := os.WriteFile(bootIDFile(c.Root), bootID(), 0o600); err != nil {
			return fmt.Errorf("remember the boot of containerd's store: %w", err)
		}
		p.log.Info("containerd is ready", "pid", p.pid)
		return nil
	case err := <-ended:
		ended <- err
		if caller.Err() != nil {
			return caller.Err() // it may go on starting: whoever comes next adopts it
		}
		if ctx.Err() != nil {
			_ = unix.Kill(p.pid, unix.SIGKILL)
			return fmt.Errorf("containerd was not ready in %v: %w; see %s", startTimeout, ctx.Err(), c.LogFile)
		}
		return fmt.Errorf("containerd ended at once: %s (log: %s)", lastLine(c.LogFile), c.LogFile)
	}
}

// childEnv keeps what pulling needs (proxies) and puts our runc and shim first; nothing else of ours reaches containers' runtimes.
func childEnv(binDir, notify string) []string {
	env := []string{"PATH=" + binDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + notify,
		// Idle it holds 10 MB of live heap; a lower target keeps the peak of an image pull from staying.
		"GOGC=50"}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func bootIDFile(root string) string { return filepath.Join(root, "boot-id") }

func bootID() []byte {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return b
}

// rebootedSince reports whether the store was last opened before the machine's last boot.
func rebootedSince(root string) bool {
	b, err := os.ReadFile(bootIDFile(root))
	return err == nil && string(b) != string(bootID())
}

func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	const tail = 2048
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tail), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
