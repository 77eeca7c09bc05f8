// Package probes runs startup, readiness and liveness probes (stage C12, ready): exec in the container, HTTP, TCP and
// gRPC from the node. It knows nothing of pods' lives; the pod worker starts a probe with an instance and ends it with it.
package probes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Kind is one of a container's three probes.
type Kind string

const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Target is the container instance that is probed. Immutable.
type Target struct {
	Pod         *v1.Pod
	Container   *v1.Container
	ContainerID string
	IP          string // of the pod; the node's for host network
	Started     time.Time
}

// Executor runs a command in a container; kubelet/runtime's client is one. A command that takes longer than timeout is
// killed and is an error.
type Executor interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exit int32, err error)
}

// Outcome is what one run of a probe found.
type Outcome struct {
	OK      bool
	Warning bool   // it counts as success, but users should hear of it (an HTTP redirect away)
	Unknown bool   // the probe itself could not run: counts as nothing
	Output  string // what was found, as it stands in events; at most 10 KiB
}

// Change is a verdict on an instance: that it passed failed enough runs to change.
type Change struct {
	Kind        Kind
	ContainerID string
	OK          bool
	Message     string // of the last failure
	Attempts    int    // runs until now
}

// Prober runs probes. Safe for concurrent use.
type Prober struct {
	Exec Executor
	// Warn reports one failed run for an event: reason Unhealthy or ProbeWarning. It must not block.
	Warn func(t Target, reason, message string)
	// UserAgent is sent with HTTP probes, such as kube-probe/1.37.
	UserAgent string
	// Dialer reaches pods; the zero Dialer is fine.
	Dialer net.Dialer
}

// Of returns a container's probe of a kind, or nil.
func Of(c *v1.Container, k Kind) *v1.Probe {
	switch k {
	case Startup:
		return c.StartupProbe
	case Readiness:
		return c.ReadinessProbe
	}
	return c.LivenessProbe
}

// firstLook is how soon after a first failure an eager probe looks again; each further look waits twice as long.
const firstLook = 10 * time.Millisecond

// eager says whether a probe looks again before its period is over while nothing has succeeded yet, so that an instance which needs a
// moment to start is not thought unready for a whole period. Such a look counts only when it succeeds. A command in the container costs
// too much for that, and a liveness probe has nothing to gain.
func eager(k Kind, probe *v1.Probe) bool {
	return k != Liveness && probe.Exec == nil && probe.SuccessThreshold <= 1
}

// Watch runs one probe until ctx ends, and reports each change of verdict, the first success or failure included. A
// startup probe ends with its first success; any probe but readiness ends when it has reported a failure, since that
// ends the instance. report must not block.
func (p *Prober) Watch(ctx context.Context, t Target, k Kind, report func(Change)) {
	probe := Of(t.Container, k)
	delay := time.Until(t.Started.Add(time.Duration(probe.InitialDelaySeconds) * time.Second))
	timer := time.NewTimer(max(delay, 0))
	defer timer.Stop()
	period := time.Duration(max(probe.PeriodSeconds, 1)) * time.Second
	var run, attempts int // outcomes in a row alike, and all
	var last, known, verdict, passed bool
	var due time.Time // of the next run that counts whatever it finds
	look := firstLook
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begun := time.Now()
		out := p.Run(ctx, t, probe)
		if ctx.Err() != nil {
			return
		}
		if begun.Before(due) && !out.OK {
			look *= 2
			timer.Reset(max(min(look, time.Until(due)), 0))
			continue
		}
		attempts++
		passed = passed || out.OK
		switch {
		case out.Unknown:
			p.Warn(t, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %s", k, out.Output))
		case !out.OK:
			p.Warn(t, "Unhealthy", fmt.Sprintf("%s probe failed: %s", k, out.Output))
		case out.Warning:
			p.Warn(t, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", k, out.Output))
		}
		if !out.Unknown {
			if out.OK == last && run > 0 {
				run++
			} else {
				last, run = out.OK, 1
			}
			threshold := max(int(probe.FailureThreshold), 1)
			if out.OK {
				threshold = max(int(probe.SuccessThreshold), 1)
			}
			if run >= threshold && (!known || verdict != out.OK) {
				known, verdict = true, out.OK
				report(Change{Kind: k, ContainerID: t.ContainerID, OK: out.OK, Message: out.Output, Attempts: attempts})
				if k == Startup || k == Liveness && !out.OK {
					return
				}
			}
		}
		// The period is from start to start; a run that overran it is followed at once.
		due = begun.Add(period)
		wait := time.Until(due)
		if !passed && !out.OK && eager(k, probe) {
			wait = min(wait, look)
		}
		timer.Reset(max(wait, 0))
	}
}

// Run makes one run of a probe.
func (p *Prober) Run(ctx context.Context, t Target, probe *v1.Probe) Outcome {
	timeout := time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second
	switch {
	case probe.Exec != nil:
		return p.exec(ctx, t, probe.Exec.Command, timeout)
	case probe.HTTPGet != nil:
		return p.http(ctx, t, probe.HTTPGet, timeout)
	case probe.TCPSocket != nil:
		port, err := Port(probe.TCPSocket.Port, t.Container)
		if err != nil {
			return Outcome{Unknown: true, Output: err.Error()}
		}
		host := probe.TCPSocket.Host
		if host == "" {
			host = t.IP
		}
		return p.tcp(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case probe.GRPC != nil:
		service := ""
		if probe.GRPC.Service != nil {
			service = *probe.GRPC.Service
		}
		return p.grpc(ctx, net.JoinHostPort(t.IP, strconv.Itoa(int(probe.GRPC.Port))), service, timeout)
	}
	return Outcome{Unknown: true, Output: "missing probe handler"}
}

// Port finds a port by number or by its name among the container's ports.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		found := false
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				n, found = int(c.Ports[i].ContainerPort), true
			}
		}
		if !found && n == 0 {
			return 0, fmt.Errorf("couldn't find port: %v in container %s", p, c.Name)
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

func (p *Prober) exec(ctx context.Context, t Target, cmd []string, timeout time.Duration) Outcome {
	stdout, stderr, exit, err := p.Exec.ExecSync(ctx, t.ContainerID, cmd, timeout)
	output := cut(string(stdout) + string(stderr))
	switch {
	case err != nil && isTimeout(err):
		return Outcome{Output: fmt.Sprintf("command timed out: %q timed out after %s", cmd, timeout)}
	case err != nil:
		return Outcome{Unknown: true, Output: err.Error()}
	case exit != 0:
		return Outcome{Output: output}
	}
	return Outcome{OK: true, Output: output}
}

// isTimeout recognises the runtime's timeout without importing the runtime.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

const maxOutput = 10 << 10

func cut(s string) string {
	if len(s) > maxOutput {
		return s[:maxOutput]
	}
	return s
}
