package podworker

import (
	"context"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/runtime"
	"wherry.dev/wherry/kubelet/status"
)

// publishing is the way of a pod's status to the API server. At most one patch is under way; what changes meanwhile
// goes with the next one, so the newest is never lost and nothing is sent twice.
type publishing struct {
	last    *v1.PodStatus // generated last; immutable
	base    *v1.PodStatus // as the API server has it, as far as is known
	version uint64        // resource version of base
	final   *v1.PodStatus // set when the pod is being cleaned: what it ended as
	due     time.Time     // when a change that can wait is sent
}

// unhurried is how long a status may wait that says no more than that the pod is under way: what follows mostly
// overtakes it, which saves the API server a write for each pod.
const unhurried = 100 * time.Millisecond

// observe takes in what the API server has.
func (w *worker) observe(pod *v1.Pod) {
	// Resource versions of one resource compare as numbers (KEP-5504). One that does not parse counts as newest.
	n, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	if err == nil && n < w.publishing.version {
		return
	}
	w.publishing.version = n
	w.publishing.base = &pod.Status
}

// generate makes the pod's present status.
func (w *worker) generate() *v1.PodStatus {
	list := w.rt.Containers
	if len(w.hooked) > 0 {
		// Until its postStart hook has run a container is not reported as running (core/v1 Lifecycle).
		list = append([]runtime.Container(nil), list...)
		for i := range list {
			if w.hooked[list[i].ID] && list[i].State == runtime.Running {
				list[i].State = runtime.Created
			}
		}
	}
	s := status.Generate(status.Input{
		Now: time.Now(), Pod: w.pod, Previous: w.publishing.last, Sandbox: w.sandbox(), Containers: list, Waiting: w.waiting,
		Ready: w.ready, Started: w.started, Messages: w.messages, HostIPs: w.c.HostIPs(), Runtime: w.c.RuntimeName(),
		Verdict: w.verdict, Terminal: w.terminal, ResourcesInStatus: true, Applied: w.resources.applied, Resize: w.resizing(), Start: w.born,
	})
	return &s
}

// freeze keeps what the pod ended as, before the runtime forgets it.
func (w *worker) freeze() {
	if w.pod == nil || w.orphan || w.publishing.final != nil {
		return
	}
	w.collectMessages()
	w.publishing.final = w.generate()
	w.publishing.last = w.publishing.final
}

// publish sends the status if it differs from what the API server has.
func (w *worker) publish() {
	if w.pod == nil || w.orphan || w.removed || w.phase == Arriving || w.phase == Forgetting || w.phase == Gone {
		return
	}
	if w.ending.whole() && w.phase == Cleaning {
		return // it goes with the removal, a moment from now
	}
	next := w.publishing.final
	if next == nil {
		next = w.generate()
	}
	w.publishing.last = next
	k := Key{statusVerb, ""}
	if w.busy[k] != nil {
		return
	}
	base := w.publishing.base
	if base == nil {
		base = &w.pod.Status
	}
	patch, changed, err := status.Patch(w.uid, base, next)
	if err != nil {
		w.log.Error("status cannot be sent", "err", err)
		return
	}
	if !changed {
		w.publishing.due = time.Time{}
		return
	}
	if t := w.retry[k]; time.Now().Before(t) {
		w.wake(t)
		return
	}
	if !urgent(base, next) {
		if w.publishing.due.IsZero() {
			w.publishing.due = time.Now().Add(unhurried)
		}
		if time.Now().Before(w.publishing.due) {
			w.wake(w.publishing.due)
			return
		}
	}
	w.publishing.due = time.Time{}
	namespace, name := w.pod.Namespace, w.pod.Name
	w.begin(k, func(ctx context.Context) func() {
		pod, err := w.patch(ctx, namespace, name, patch)
		return func() { w.patched(k, pod, err, ctx.Err() != nil) }
	})
}

// patched takes a patch's outcome in. The loop publishes again if the status has changed meanwhile.
func (w *worker) patched(k Key, pod *v1.Pod, err error, cut bool) {
	switch {
	case err == nil:
		w.succeed(k)
		w.observe(pod)
	case cut:
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// Gone, or replaced by another of its name: the watch says so, too.
		w.log.Debug("status has no pod to go to any more", "err", err)
		w.fail(k, 10*time.Second)
	default:
		w.log.Warn("sending the pod's status failed", "err", err)
		w.fail(k, 10*time.Second)
	}
}

// patch sends one status patch. An API server that has to think longer than 30 s has lost it.
func (w *worker) patch(ctx context.Context, namespace, name string, patch []byte) (*v1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return w.c.API.CoreV1().Pods(namespace).Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
}

// urgent says whether a change is news to users or controllers, not just progress.
func urgent(old, next *v1.PodStatus) bool {
	if next.Phase != v1.PodPending || old.Phase != next.Phase && old.Phase != "" {
		return true
	}
	for _, list := range [][]v1.ContainerStatus{next.InitContainerStatuses, next.ContainerStatuses} {
		for i := range list {
			if x := list[i].State.Waiting; x != nil && x.Reason != "ContainerCreating" && x.Reason != "PodInitializing" {
				return true
			}
		}
	}
	return false
}

// forget is D6: the final status is stored, then the entry is removed, with the UID as precondition, so that a newer
// pod of the same name is safe.
func (w *worker) forget() Phase {
	if w.removed || w.ending.forgotten {
		return Gone
	}
	k := Key{forgetVerb, ""}
	if w.busy[k] != nil || w.busy[Key{statusVerb, ""}] != nil {
		return Forgetting
	}
	if t := w.retry[k]; time.Now().Before(t) {
		w.wake(t)
		return Forgetting
	}
	base, final := w.publishing.base, w.publishing.final
	if base == nil {
		base = &w.pod.Status
	}
	patch, changed, err := status.Patch(w.uid, base, final)
	if err != nil {
		w.log.Error("final status cannot be sent", "err", err)
		changed = false
	}
	namespace, name := w.pod.Namespace, w.pod.Name
	w.begin(k, func(ctx context.Context) func() {
		var pod *v1.Pod
		var err error
		if changed {
			pod, err = w.patch(ctx, namespace, name, patch)
		}
		if err == nil {
			now := int64(0)
			limit, cancel := context.WithTimeout(ctx, 30*time.Second)
			err = w.c.API.CoreV1().Pods(namespace).Delete(limit, name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &w.uid}})
			cancel()
		}
		return func() {
			if pod != nil {
				w.observe(pod)
			}
			switch {
			case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
				w.ending.forgotten = true
			case ctx.Err() == nil:
				w.log.Warn("removing the pod from the API server failed, trying again", "err", err)
				w.fail(k, 10*time.Second)
			}
		}
	})
	return Forgetting
}
