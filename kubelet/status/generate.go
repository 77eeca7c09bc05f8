// Package status turns what the kubelet knows of a pod into the PodStatus that users and controllers see, and into
// the smallest patch that brings the API server there. It is pure: no call, no clock of its own. Used by the pod worker.
package status

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/kubelet/containers"
	"wherry.dev/wherry/kubelet/runtime"
)

// Waiting says why a container does not run: CrashLoopBackOff, ErrImagePull, CreateContainerConfigError, ...
type Waiting struct{ Reason, Message string }

// Verdict ends a pod from outside its containers: rejected by the node, evicted, past its deadline.
type Verdict struct{ Reason, Message string }

// Resize is how far a change of a running pod's resources is (KEP-1287). The zero value: nothing is to be changed.
type Resize struct {
	Pending    *Waiting // the node does not grant it, for now (Deferred) or ever (Infeasible)
	InProgress bool     // it is granted, and containers do not have it yet
	Error      string   // why not, when an attempt failed
}

// Input is all that a pod's status is made of.
type Input struct {
	Now time.Time
	// Pod is the newest the API server gave, its status included: other writers' conditions are kept, and what the
	// runtime has forgotten is remembered from there.
	Pod *v1.Pod
	// Previous is the status this kubelet generated last; nil at first.
	Previous *v1.PodStatus
	// Sandbox is the pod's current sandbox, ready or not; nil if there is none.
	Sandbox *runtime.Sandbox
	// Containers are all instances the runtime has, newest first.
	Containers []runtime.Container
	// Waiting is by container name, and wins over an instance that has ended.
	Waiting map[string]Waiting
	// Ready and Started are the probes' verdicts on a running instance, by container ID.
	Ready, Started func(id string) bool
	// Messages are the termination messages of ended instances, by container ID.
	Messages map[string]string
	HostIPs  []string
	Runtime  string // name of the runtime, for containerd://ID
	// Verdict is set for a pod that is ended from outside.
	Verdict *Verdict
	// Terminal says that the pod has ended for good: no container runs, none will.
	Terminal bool
	// ResourcesInStatus lets running containers report what they were allocated: what Pod says.
	ResourcesInStatus bool
	// Applied is what a running instance really has, by container ID, where that may be something else.
	Applied map[string]v1.ResourceRequirements
	Resize  Resize
	Start   time.Time // when this kubelet first saw the pod
}

// Generate makes the status. Neither the input nor the pod in it is written; the result shares nothing mutable with them.
func Generate(in Input) v1.PodStatus {
	pod := in.Pod
	old := in.Previous
	if old == nil {
		old = &pod.Status
	}
	s := v1.PodStatus{
		ObservedGeneration:    pod.Generation,
		QOSClass:              containers.QoS(pod),
		NominatedNodeName:     pod.Status.NominatedNodeName,
		ResourceClaimStatuses: pod.Status.ResourceClaimStatuses,
		StartTime:             pod.Status.StartTime,
		Message:               pod.Status.Message,
		Reason:                pod.Status.Reason,
	}
	if s.StartTime == nil {
		s.StartTime = old.StartTime
	}
	if s.StartTime == nil {
		t := metav1.NewTime(in.Start.Truncate(time.Second))
		s.StartTime = &t
	}
	addresses(&s, in, old)

	init := len(pod.Spec.InitContainers) > 0
	s.InitContainerStatuses = statuses(in, pod.Spec.InitContainers, old.InitContainerStatuses, init)
	s.ContainerStatuses = statuses(in, pod.Spec.Containers, old.ContainerStatuses, init)
	if n := len(pod.Spec.EphemeralContainers); n > 0 {
		plain := make([]v1.Container, n)
		for i := range pod.Spec.EphemeralContainers {
			plain[i] = v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
		s.EphemeralContainerStatuses = statuses(in, plain, old.EphemeralContainerStatuses, false)
		for i := range s.EphemeralContainerStatuses {
			s.EphemeralContainerStatuses[i].Ready = false // an ephemeral container is never ready nor started
			s.EphemeralContainerStatuses[i].Started = nil
		}
	}
	if in.Terminal {
		locate(in, &s)
	}
	s.Phase = phase(in, &s, old)
	if in.Verdict != nil {
		s.Reason, s.Message = in.Verdict.Reason, in.Verdict.Message
	}
	s.Conditions = conditions(in, &s, old)
	return s
}

func addresses(s *v1.PodStatus, in Input, old *v1.PodStatus) {
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
	}
	if len(s.HostIPs) == 0 {
		s.HostIPs = old.HostIPs
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	switch {
	case in.Pod.Spec.HostNetwork && in.Sandbox != nil:
		for _, ip := range in.HostIPs {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
	case in.Sandbox != nil && len(in.Sandbox.IPs) > 0:
		for _, ip := range in.Sandbox.IPs {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
	default:
		// An ended pod keeps the address it had: logs and EndpointSlices speak of it.
		s.PodIPs = old.PodIPs
		if len(s.PodIPs) == 0 && old.PodIP != "" {
			s.PodIPs = []v1.PodIP{{IP: old.PodIP}}
		}
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// statuses makes one status for each container of a list, in the list's order.
func statuses(in Input, list []v1.Container, old []v1.ContainerStatus, hasInit bool) []v1.ContainerStatus {
	if len(list) == 0 {
		return nil
	}
	all := make([]v1.ContainerStatus, len(list))
	for i := range list {
		all[i] = containerStatus(in, &list[i], lookup(old, list[i].Name), hasInit)
	}
	return all
}

func lookup(all []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

func containerStatus(in Input, c *v1.Container, old *v1.ContainerStatus, hasInit bool) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image}
	s.State.Waiting = &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
	if hasInit {
		s.State.Waiting.Reason = "PodInitializing"
	}
	no := false
	s.Started = &no

	var current, last *runtime.Container // newest instance, and the newest ended one before it
	for i := range in.Containers {
		x := &in.Containers[i]
		if x.Name != c.Name {
			continue
		}
		if current == nil {
			current = x
		} else if x.State == runtime.Exited {
			last = x
			break
		}
	}
	if old != nil {
		s.RestartCount = old.RestartCount
		s.LastTerminationState = old.LastTerminationState
		s.ImageID, s.ContainerID = old.ImageID, old.ContainerID
		if old.Image != "" {
			s.Image = old.Image
		}
		if old.State.Terminated != nil && (current == nil || !sameContainer(in, current, old.ContainerID)) {
			// What the runtime has forgotten, or a newer instance has followed, is remembered from here.
			if current == nil {
				s.State = v1.ContainerState{Terminated: old.State.Terminated}
				s.Ready = old.State.Terminated.ExitCode == 0 && old.Ready
			} else {
				s.LastTerminationState = v1.ContainerState{Terminated: old.State.Terminated}
			}
		}
	}
	if last != nil {
		s.LastTerminationState = v1.ContainerState{Terminated: terminated(in, last)}
	}
	if current != nil {
		fromRuntime(in, &s, c, current)
	}
	if w, ok := in.Waiting[c.Name]; ok && s.State.Running == nil {
		if s.State.Terminated != nil {
			s.LastTerminationState = v1.ContainerState{Terminated: s.State.Terminated}
		}
		s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}}
		s.Ready = false
		s.Started = &no
	}
	return s
}

// sameContainer compares an instance with a containerd://ID.
func sameContainer(in Input, c *runtime.Container, id string) bool {
	return in.Runtime+"://"+c.ID == id
}

func fromRuntime(in Input, s *v1.ContainerStatus, c *v1.Container, x *runtime.Container) {
	s.RestartCount = int32(x.Attempt)
	s.ContainerID = in.Runtime + "://" + x.ID
	s.ImageID = x.ImageID
	if x.Image != "" {
		s.Image = x.Image
	}
	switch x.State {
	case runtime.Running:
		started := in.Started(x.ID)
		s.State = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: seconds(x.StartedAt)}}
		s.Started = &started
		s.Ready = started && in.Ready(x.ID)
		if in.ResourcesInStatus {
			s.AllocatedResources = c.Resources.Requests
			s.Resources = c.Resources.DeepCopy()
			if r, ok := in.Applied[x.ID]; ok {
				s.Resources = r.DeepCopy()
			}
		}
		for _, m := range c.VolumeMounts {
			v := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
			if m.ReadOnly {
				mode := v1.RecursiveReadOnlyDisabled
				if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
					mode = v1.RecursiveReadOnlyEnabled
				}
				v.RecursiveReadOnly = &mode
			}
			s.VolumeMounts = append(s.VolumeMounts, v)
		}
		if x.User != nil {
			s.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: x.User.GetUid(), GID: x.User.GetGid(), SupplementalGroups: x.User.GetSupplementalGroups()}}
		}
	case runtime.Exited:
		s.State = v1.ContainerState{Terminated: terminated(in, x)}
		// A finished init container counts as ready, as upstream reports it.
		s.Ready = x.ExitCode == 0 && slices.ContainsFunc(in.Pod.Spec.InitContainers, func(i v1.Container) bool {
			return i.Name == c.Name && !containers.IsSidecar(&i)
		})
	case runtime.Unknown:
		s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137, ContainerID: s.ContainerID,
			Message: "The container runtime does not know the container's state"}}
	}
	if containers.StopSignal(c) != "" {
		signal := *c.Lifecycle.StopSignal
		s.StopSignal = &signal
	}
}

func terminated(in Input, x *runtime.Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: x.ExitCode, Reason: x.Reason, Message: x.Message,
		StartedAt: seconds(x.StartedAt), FinishedAt: seconds(x.FinishedAt), ContainerID: in.Runtime + "://" + x.ID,
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if x.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	if m := in.Messages[x.ID]; m != "" {
		t.Message = m
	}
	return t
}

func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

// locate gives containers of an ended pod that are neither seen ended nor waiting from the start an end, so that no
// ended pod has a running container (upstream's words).
func locate(in Input, s *v1.PodStatus) {
	no := false
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated != nil {
				c.Ready = c.Ready && c.State.Terminated.ExitCode == 0
				continue
			}
			if c.State.Waiting != nil && c.ContainerID == "" {
				continue // never began
			}
			if c.LastTerminationState.Terminated != nil && c.State.Waiting != nil {
				c.State, c.LastTerminationState = v1.ContainerState{Terminated: c.LastTerminationState.Terminated}, v1.ContainerState{}
			} else {
				c.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137,
					Message: "The container could not be located when the pod was terminated"}}
			}
			c.Ready, c.Started = false, &no
		}
	}
}
