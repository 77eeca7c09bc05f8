package podworker

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

// arrive is C7: once it is known what the runtime has of the pod, the node takes it or refuses it.
func (w *worker) arrive() Phase {
	if !w.rtKnown {
		if k := (Key{rereadVerb, ""}); w.lookUp && w.busy[k] == nil {
			if t := w.retry[k]; time.Now().Before(t) {
				w.wake(t)
			} else {
				w.reread(nil)
			}
		}
		return Arriving
	}
	if w.orphan {
		return w.end(ending{why: endOrphan})
	}
	if w.pod == nil {
		return Arriving
	}
	if w.removed {
		return w.end(ending{why: endRemoved})
	}
	if p := w.pod.Status.Phase; p == v1.PodSucceeded || p == v1.PodFailed {
		w.terminal = true
		if w.pod.DeletionTimestamp != nil {
			return w.end(ending{why: endDeleted})
		}
		return w.end(ending{why: endFinished})
	}
	adopted := len(w.rt.Containers) > 0
	if w.pod.DeletionTimestamp != nil {
		return w.end(ending{why: endDeleted})
	}
	begun := time.Now()
	if adopted {
		w.recall()
	}
	if r := w.c.Ledger.Admit(w.pod, adopted); r != nil {
		w.event("", v1.EventTypeWarning, r.Reason, "%s", r.Message)
		w.log.Info("pod refused", "reason", r.Reason, "message", r.Message)
		w.span(lifecycle.AdmitOnNode, "", w.born, trace.Failed, r.Reason+": "+r.Message)
		w.verdict = &status.Verdict{Reason: r.Reason, Message: r.Message}
		return w.end(ending{why: endRefused})
	}
	if !adopted {
		w.span(lifecycle.AdmitOnNode, "", begun, trace.OK, "")
	} else {
		w.log.Info("found running again", "containers", len(w.rt.Containers))
		w.adopt()
	}
	w.spans.volumes, w.spans.sandbox = time.Now(), time.Now()
	w.admitted()
	return Syncing
}

// adopt takes over what an earlier kubelet had made: probes' verdicts and back-offs from the status it wrote.
func (w *worker) adopt() {
	w.spans.readyDone = true
	known := func(id string) *v1.ContainerStatus {
		for _, list := range [][]v1.ContainerStatus{w.pod.Status.ContainerStatuses, w.pod.Status.InitContainerStatuses} {
			for i := range list {
				if list[i].ContainerID == w.c.RuntimeName()+"://"+id {
					return &list[i]
				}
			}
		}
		return nil
	}
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		if x.State != runtime.Running {
			continue
		}
		p := &probing{}
		if s := known(x.ID); s != nil {
			p.ready = s.Ready
			p.started = s.Started != nil && *s.Started
		}
		w.probing[x.ID] = p
	}
}
