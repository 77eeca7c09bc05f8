package status

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/kubelet/containers"
)

// owned are the conditions that only the kubelet writes, in the order in which upstream shows them.
// The last two are there only while a change of resources is under way.
var owned = []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled, v1.PodResizePending, v1.PodResizeInProgress}

// Owned says whether the kubelet is the writer of a condition.
func Owned(t v1.PodConditionType) bool {
	for _, o := range owned {
		if t == o {
			return true
		}
	}
	return false
}

// conditions makes the kubelet's own and keeps everyone else's as the API server has them.
func conditions(in Input, s, old *v1.PodStatus) []v1.PodCondition {
	made := map[v1.PodConditionType]v1.PodCondition{}
	add := func(t v1.PodConditionType, ok bool, reason, message string) {
		c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: in.Pod.Generation}
		if ok {
			c.Status = v1.ConditionTrue
		}
		made[t] = c
	}
	add(v1.PodReadyToStartContainers, in.Sandbox != nil && in.Sandbox.Ready && (in.Pod.Spec.HostNetwork || len(in.Sandbox.IPs) > 0), "", "")

	if s.Phase == v1.PodSucceeded {
		add(v1.PodInitialized, true, "PodCompleted", "")
	} else if missing := uninitialized(in.Pod, s); len(missing) > 0 {
		add(v1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", list(missing)))
	} else {
		add(v1.PodInitialized, true, "", "")
	}

	ready, reason, message := containersReady(in.Pod, s)
	add(v1.ContainersReady, ready, reason, message)
	if ready {
		ready, reason, message = gates(in.Pod)
	}
	add(v1.PodReady, ready, reason, message)

	var scheduled *v1.PodCondition
	for i := range in.Pod.Status.Conditions {
		if in.Pod.Status.Conditions[i].Type == v1.PodScheduled {
			scheduled = &in.Pod.Status.Conditions[i]
		}
	}
	if scheduled != nil {
		made[v1.PodScheduled] = *scheduled
	} else {
		add(v1.PodScheduled, true, "", "")
	}

	if w := in.Resize.Pending; w != nil {
		add(v1.PodResizePending, true, w.Reason, w.Message)
	}
	if in.Resize.InProgress {
		reason := ""
		if in.Resize.Error != "" {
			reason = v1.PodReasonError
		}
		add(v1.PodResizeInProgress, true, reason, in.Resize.Error)
	}

	var all []v1.PodCondition
	for _, t := range owned {
		c, ok := made[t]
		if !ok {
			continue
		}
		if t != v1.PodScheduled || scheduled == nil {
			c.LastTransitionTime = transition(in.Now, c, old.Conditions, in.Pod.Status.Conditions)
		}
		all = append(all, c)
	}
	for _, c := range in.Pod.Status.Conditions {
		if !Owned(c.Type) {
			all = append(all, c)
		}
	}
	return all
}

// transition keeps the time at which the condition took its present status.
func transition(now time.Time, c v1.PodCondition, olds ...[]v1.PodCondition) metav1.Time {
	for _, old := range olds {
		for i := range old {
			if old[i].Type == c.Type {
				if old[i].Status == c.Status {
					return old[i].LastTransitionTime
				}
				return metav1.NewTime(now.Truncate(time.Second))
			}
		}
	}
	return metav1.NewTime(now.Truncate(time.Second))
}

func list(names []string) string { return "[" + strings.Join(names, " ") + "]" }

func containersReady(pod *v1.Pod, s *v1.PodStatus) (ok bool, reason, message string) {
	switch s.Phase {
	case v1.PodSucceeded:
		return false, "PodCompleted", ""
	case v1.PodFailed:
		return false, "PodFailed", ""
	}
	var unready []string
	for i := range s.InitContainerStatuses {
		if c := &s.InitContainerStatuses[i]; containers.IsSidecar(&pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for i := range s.ContainerStatuses {
		if !s.ContainerStatuses[i].Ready {
			unready = append(unready, s.ContainerStatuses[i].Name)
		}
	}
	if len(unready) > 0 {
		return false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", list(unready))
	}
	return true, "", ""
}

// gates asks the pod's readiness gates (KEP-580).
func gates(pod *v1.Pod) (ok bool, reason, message string) {
	var bad []string
	for _, g := range pod.Spec.ReadinessGates {
		found := false
		for i := range pod.Status.Conditions {
			c := &pod.Status.Conditions[i]
			if c.Type != g.ConditionType {
				continue
			}
			found = true
			if c.Status != v1.ConditionTrue {
				bad = append(bad, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
			}
		}
		if !found {
			bad = append(bad, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		}
	}
	if len(bad) > 0 {
		return false, "ReadinessGatesNotReady", strings.Join(bad, ", ")
	}
	return true, "", ""
}
