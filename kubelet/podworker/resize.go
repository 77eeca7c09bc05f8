package podworker

import (
	"context"
	"encoding/json"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
)

// resources is what a pod has of the node while its spec may ask for something else (KEP-1287). What is wanted is granted by the ledger or waits; what is
// granted is given to the running containers, one after the other.
type resources struct {
	wanted  *v1.Pod                            // as the API server has it
	granted map[string]v1.ResourceRequirements // by container; nil before the node took the pod. wholePod is the pod's own
	pending *status.Waiting                    // why wanted is not granted
	applied map[string]v1.ResourceRequirements // what instances have, by ID
	failure string                             // of the last attempt to apply what is granted
	begun   bool                               // a change is granted, and its end is still to be told
	refused int64                              // the generation that pending is about
}

// wholePod is the key of resources that a pod has as a whole (KEP-2837); no container has this name.
const wholePod = ""

const retryResize = time.Minute

// wantedOf is what a pod asks for.
func wantedOf(pod *v1.Pod) map[string]v1.ResourceRequirements {
	all := map[string]v1.ResourceRequirements{}
	for i := range pod.Spec.Containers {
		all[pod.Spec.Containers[i].Name] = pod.Spec.Containers[i].Resources
	}
	for i := range pod.Spec.InitContainers {
		all[pod.Spec.InitContainers[i].Name] = pod.Spec.InitContainers[i].Resources
	}
	if pod.Spec.Resources != nil {
		all[wholePod] = *pod.Spec.Resources
	}
	return all
}

// sameResources compares what can be changed while a container runs.
func sameResources(a, b v1.ResourceRequirements) bool {
	return equality.Semantic.DeepEqual(a.Requests, b.Requests) && equality.Semantic.DeepEqual(a.Limits, b.Limits)
}

// restartsForResize says whether what has changed takes effect only when the container is started anew.
func restartsForResize(c *v1.Container, was v1.ResourceRequirements) bool {
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy != v1.RestartContainer {
			continue
		}
		request, limit := c.Resources.Requests[p.ResourceName], c.Resources.Limits[p.ResourceName]
		if request.Cmp(was.Requests[p.ResourceName]) != 0 || limit.Cmp(was.Limits[p.ResourceName]) != 0 {
			return true
		}
	}
	return false
}

// grant returns the pod with the resources that it may have now: those it asks for, if the node has room.
func (w *worker) grant(pod *v1.Pod) *v1.Pod {
	r := &w.resources
	r.wanted = pod
	if r.granted == nil {
		return pod
	}
	want, same := wantedOf(pod), true
	for name, x := range want {
		have, ok := r.granted[name]
		same = same && ok && sameResources(x, have)
	}
	if same {
		r.pending = nil
		return pod
	}
	refused := w.c.Ledger.Resize(pod, w.box.signal)
	if refused == nil {
		r.granted, r.pending, r.begun, r.failure = want, nil, true, ""
		w.tellResize(pod, v1.EventTypeNormal, "ResizeStarted", "Pod resize started", "")
		return pod
	}
	if r.pending == nil || r.pending.Reason != refused.Reason || r.refused != pod.Generation {
		w.tellResize(pod, v1.EventTypeWarning, "Resize"+refused.Reason, "Pod resize "+refused.Reason, refused.Message)
	}
	r.pending, r.refused = &status.Waiting{Reason: refused.Reason, Message: refused.Message}, pod.Generation
	return granted(pod, r.granted)
}

// tellResize gives an event of a change, with what is asked for as upstream's kubelet writes it.
func (w *worker) tellResize(pod *v1.Pod, eventType, reason, what, failure string) {
	if w.orphan {
		return
	}
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	asked := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: pod.Generation, Error: failure}
	for i := range pod.Spec.InitContainers {
		asked.InitContainers = append(asked.InitContainers, container{pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].Resources})
	}
	for i := range pod.Spec.Containers {
		asked.Containers = append(asked.Containers, container{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Resources})
	}
	if b, err := json.Marshal(asked); err == nil {
		what += ": " + string(b)
	}
	w.c.Events.Eventf(Reference(pod, ""), eventType, reason, "%s", what)
}

// tellResized gives an event when all that was granted is with the containers, and those that had to be are started anew.
func (w *worker) tellResized() {
	if !w.resources.begun || len(w.busy) > 0 || w.resizing().InProgress {
		return
	}
	w.resources.begun = false
	w.tellResize(w.pod, v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", "")
}

// granted is a copy of a pod with other resources.
func granted(pod *v1.Pod, resources map[string]v1.ResourceRequirements) *v1.Pod {
	pod = pod.DeepCopy()
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if x, ok := resources[list[i].Name]; ok {
				list[i].Resources = *x.DeepCopy()
			}
		}
	}
	if x, ok := resources[wholePod]; ok && pod.Spec.Resources != nil {
		pod.Spec.Resources = x.DeepCopy()
	}
	return pod
}

// regrant asks again for what was put off: other pods may have gone meanwhile.
func (w *worker) regrant() {
	if p := w.resources.pending; p == nil || p.Reason != v1.PodReasonDeferred {
		return
	}
	w.pod = w.grant(w.resources.wanted)
}

// admitted notes what the node has promised. What a later version of the pod asks for beyond that is a change.
func (w *worker) admitted() {
	w.resources.granted = wantedOf(w.pod)
	if wanted := w.resources.wanted; wanted != nil {
		w.pod = w.grant(wanted)
	}
}

// recall reads from the status what an earlier kubelet had granted and given, so that a change which was under way goes on, and one that waited waits.
func (w *worker) recall() {
	promised := wantedOf(w.pod)
	for _, list := range [][]v1.ContainerStatus{w.pod.Status.ContainerStatuses, w.pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Resources == nil {
				continue
			}
			for j := range w.rt.Containers {
				if x := &w.rt.Containers[j]; s.ContainerID == w.c.RuntimeName()+"://"+x.ID {
					w.given(x.ID, *s.Resources)
				}
			}
			if x, ok := promised[s.Name]; ok && !equality.Semantic.DeepEqual(x.Requests, s.AllocatedResources) {
				promised[s.Name] = v1.ResourceRequirements{Requests: s.AllocatedResources, Limits: s.Resources.Limits}
			}
		}
	}
	w.pod = granted(w.pod, promised)
}

// given notes what an instance was made with.
func (w *worker) given(id string, r v1.ResourceRequirements) {
	if w.resources.applied == nil {
		w.resources.applied = map[string]v1.ResourceRequirements{}
	}
	w.resources.applied[id] = *r.DeepCopy()
}

// resizing is how far a change is, for the status.
func (w *worker) resizing() status.Resize {
	r := status.Resize{Pending: w.resources.pending, InProgress: w.busy[Key{Resize, ""}] != nil}
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		if x.State != runtime.Running {
			continue
		}
		was, ok := w.resources.applied[x.ID]
		c, kind := find(w.pod, x.Name)
		if ok && c != nil && kind != runtime.ContainerKindInit && !sameResources(was, c.Resources) {
			r.InProgress = true
		}
	}
	if r.InProgress {
		r.Error = w.resources.failure
	}
	return r
}

// resize gives the running containers what is granted. The pod's own group is made larger before them and smaller after them, as the kernel lets no group
// have more than the one it is in.
func (w *worker) resize(s Step) {
	k, pod := s.Key(), w.pod
	type change struct {
		id   string
		to   v1.ResourceRequirements
		told *runtime.ContainerResources
	}
	var changes []change
	for i := range w.rt.Containers {
		x := &w.rt.Containers[i]
		was, ok := w.resources.applied[x.ID]
		c, _ := find(pod, x.Name)
		if ok && c != nil && x.State == runtime.Running && !sameResources(was, c.Resources) && !restartsForResize(c, was) {
			changes = append(changes, change{x.ID, c.Resources, containers.Resources(pod, c, w.c.Facts)})
		}
	}
	w.begin(k, func(ctx context.Context) func() {
		_, first := w.c.Cgroups.Ensure(ctx, pod)
		var err error
		done := 0
		for ; done < len(changes) && err == nil; done++ {
			if err = w.c.Runtime.UpdateResources(ctx, changes[done].id, changes[done].told); err != nil {
				break
			}
		}
		if err == nil && first != nil {
			_, err = w.c.Cgroups.Ensure(ctx, pod)
		}
		return func() {
			for _, c := range changes[:done] {
				w.given(c.id, c.to)
			}
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				if said := runtime.Message(err); said != w.resources.failure {
					w.resources.failure = said
					w.tellResize(pod, v1.EventTypeWarning, "ResizeError", "Pod resize error", said)
				}
				w.log.Warn("changing the resources of containers failed, trying again", "err", err)
				w.fail(k, retryResize)
				return
			}
			w.resources.failure = ""
			w.succeed(k)
		}
	})
}
