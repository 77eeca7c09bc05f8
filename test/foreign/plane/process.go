package plane

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a foreign program, or Wherry, that a test started. Its output goes to a file.
type Process struct {
	Name string
	Log  string // path of its output
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

// stopTimeout is how long a process may take to end by itself.
const stopTimeout = 20 * time.Second

// Start starts a program, which is stopped with the test. Its log is NAME.log in LogDir.
func Start(t testing.TB, name, program string, args ...string) *Process {
	t.Helper()
	return StartEnv(t, name, nil, program, args...)
}

// StartEnv is Start with further variables of the environment, NAME=value.
func StartEnv(t testing.TB, name string, env []string, program string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name, Log: filepath.Join(LogDir(t), name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s ends:\n%s", p.Log, p.Tail(30))
		}
	})
	return p
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop asks the process to end and waits until it has; when it does not in time it is killed. Stopping twice does nothing.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.Kill()
	}
}

// Kill ends the process as a crash would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// LogDir is where the logs of a test's processes are: below WHERRY_FOREIGN_LOGS, where they stay, or in a folder that goes with the test.
func LogDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("WHERRY_FOREIGN_LOGS")
	if dir == "" {
		return Dir(t)
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Eventually looks until look returns no error, and fails the test when it still does after bound, or when one of the processes ends.
func Eventually(t testing.TB, what string, bound time.Duration, look func() error, processes ...*Process) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for {
		err := look()
		if err == nil {
			return
		}
		for _, p := range processes {
			if !p.Running() {
				t.Fatalf("%s: %s has ended: %v\n%s", what, p.Name, errors.Join(p.err, err), p.Tail(30))
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, bound, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(fmt.Errorf("%s: the test ends: %w", what, err))
		case <-time.After(pollInterval):
		}
	}
}

// pollInterval is between two looks at something that tells nobody when it changes.
const pollInterval = 10 * time.Millisecond
