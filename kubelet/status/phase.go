package status

import (
	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/containers"
)

// phase is the pod's phase by its containers (upstream's rules). A phase that has ended never changes again.
func phase(in Input, s, old *v1.PodStatus) v1.PodPhase {
	if p := in.Pod.Status.Phase; p == v1.PodFailed || p == v1.PodSucceeded {
		return p
	}
	if p := old.Phase; p == v1.PodFailed || p == v1.PodSucceeded {
		return p
	}
	if in.Terminal {
		if in.Verdict != nil {
			return v1.PodFailed
		}
		return ended(in.Pod, s)
	}
	if !initialized(in.Pod, s) {
		return v1.PodPending
	}
	var running, waiting, stopped int
	for i := range s.ContainerStatuses {
		switch c := &s.ContainerStatuses[i]; {
		case c.State.Running != nil:
			running++
		case c.State.Terminated != nil, c.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	if waiting > 0 || running+stopped == 0 {
		return v1.PodPending
	}
	return v1.PodRunning
}

// ended is the phase of a pod none of whose containers runs or will run again.
func ended(pod *v1.Pod, s *v1.PodStatus) v1.PodPhase {
	good := func(c *v1.ContainerStatus) bool { return c.State.Terminated != nil && c.State.Terminated.ExitCode == 0 }
	for i := range s.InitContainerStatuses {
		if !containers.IsSidecar(&pod.Spec.InitContainers[i]) && !good(&s.InitContainerStatuses[i]) {
			return v1.PodFailed
		}
	}
	for i := range s.ContainerStatuses {
		if !good(&s.ContainerStatuses[i]) {
			return v1.PodFailed
		}
	}
	return v1.PodSucceeded
}

// begun says whether any regular container has ever been started: then initialization is over for good.
func begun(s *v1.PodStatus) bool {
	for i := range s.ContainerStatuses {
		c := &s.ContainerStatuses[i]
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// initialized says whether every init container has done what the next waits for.
func initialized(pod *v1.Pod, s *v1.PodStatus) bool { return len(uninitialized(pod, s)) == 0 }

// uninitialized names the init containers that are not done.
func uninitialized(pod *v1.Pod, s *v1.PodStatus) []string {
	if begun(s) {
		return nil
	}
	var names []string
	for i := range s.InitContainerStatuses {
		c := &s.InitContainerStatuses[i]
		if containers.IsSidecar(&pod.Spec.InitContainers[i]) {
			if c.Started == nil || !*c.Started {
				names = append(names, c.Name)
			}
			continue
		}
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
			names = append(names, c.Name)
		}
	}
	return names
}
