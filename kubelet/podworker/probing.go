package podworker

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/probes"
	"wherry.dev/wherry/kubelet/runtime"
)

// probing is the probes of one running instance.
type probing struct {
	started, ready bool // verdicts of the startup and the readiness probe
	begun          map[probes.Kind]context.CancelFunc
	wait           sync.WaitGroup
	closed         bool
}

// probe keeps the probes that should run running, and ends the others (C12).
func (w *worker) probe() {
	if w.pod == nil || w.phase < Syncing {
		return
	}
	running := map[string]bool{}
	if w.phase <= Stopping && !w.orphan {
		for i := range w.rt.Containers {
			x := &w.rt.Containers[i]
			c, kind := find(w.pod, x.Name)
			if x.State != runtime.Running || c == nil || kind == runtime.ContainerKindEphemeral || kind == runtime.ContainerKindInit || w.hooked[x.ID] {
				continue
			}
			running[x.ID] = true
			w.probeInstance(x, c)
		}
	}
	for id, p := range w.probing {
		if !running[id] && !w.hooked[id] && w.phase >= Syncing {
			p.close()
			if !w.alive(id) {
				delete(w.probing, id)
			}
		}
	}
}

// alive says whether an instance runs as far as is known.
func (w *worker) alive(id string) bool {
	for i := range w.rt.Containers {
		if w.rt.Containers[i].ID == id {
			return w.rt.Containers[i].State == runtime.Running
		}
	}
	return false
}

func (p *probing) close() {
	for _, cancel := range p.begun {
		cancel()
	}
	p.closed = true
}

func (w *worker) stopProbes() {
	for _, p := range w.probing {
		p.close()
		p.wait.Wait()
	}
}

func (w *worker) probeInstance(x *runtime.Container, c *v1.Container) {
	p := w.probing[x.ID]
	if p == nil {
		p = &probing{}
		w.probing[x.ID] = p
	}
	if p.closed {
		return
	}
	if p.begun == nil {
		p.begun = map[probes.Kind]context.CancelFunc{}
	}
	if c.StartupProbe == nil {
		p.started = true
	}
	if c.ReadinessProbe == nil {
		p.ready = true
	}
	if w.phase == Syncing && c.StartupProbe != nil && !p.started {
		w.watchProbe(p, x, c, probes.Startup)
		return // the others begin when it has succeeded
	}
	if c.ReadinessProbe != nil {
		w.watchProbe(p, x, c, probes.Readiness)
	}
	if c.LivenessProbe != nil {
		if w.phase == Syncing {
			w.watchProbe(p, x, c, probes.Liveness)
		} else if cancel := p.begun[probes.Liveness]; cancel != nil {
			cancel() // a container that is being stopped is not killed for being slow
		}
	}
}

func (w *worker) watchProbe(p *probing, x *runtime.Container, c *v1.Container, k probes.Kind) {
	if p.begun[k] != nil {
		return
	}
	ctx, cancel := context.WithCancel(w.ctx)
	p.begun[k] = cancel
	ip := ""
	if ips := w.podIPs(); len(ips) > 0 {
		ip = ips[0]
	}
	t := probes.Target{Pod: w.pod, Container: c, ContainerID: x.ID, IP: ip, Started: x.StartedAt}
	p.wait.Go(func() {
		w.c.Prober.Watch(ctx, t, k, func(change probes.Change) { w.box.post(func() { w.probed(p, c, change) }) })
	})
}

// probed takes a probe's verdict in.
func (w *worker) probed(p *probing, c *v1.Container, change probes.Change) {
	switch {
	case change.Kind == probes.Readiness:
		p.ready = change.OK
		if !change.OK {
			w.spans.readyWhy = fmt.Sprintf("container %s: readiness probe failed: %s", c.Name, change.Message)
		}
	case change.Kind == probes.Startup && change.OK:
		p.started = true
	case !change.OK:
		why := fmt.Sprintf("Container %s failed %s probe", c.Name, lower(change.Kind))
		if w.pod != nil && Restarts(w.pod, c, 137) {
			why += ", will be restarted"
		}
		w.unhealthy[change.ContainerID] = why
		if probe := probes.Of(c, change.Kind); probe.TerminationGracePeriodSeconds != nil {
			w.killGrace(change.ContainerID, time.Duration(*probe.TerminationGracePeriodSeconds)*time.Second)
		}
	}
}

func lower(k probes.Kind) string {
	if k == probes.Startup {
		return "startup"
	}
	return "liveness"
}

// started and ready are the verdicts on a running instance.
func (w *worker) started(id string) bool {
	p := w.probing[id]
	return p != nil && p.started
}

func (w *worker) ready(id string) bool {
	p := w.probing[id]
	return p != nil && p.ready
}
