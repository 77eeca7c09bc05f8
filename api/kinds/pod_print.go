package kinds

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func podColumns() []metav1.TableColumnDefinition {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
		column("Status", "string", "The aggregate status of the containers in this pod."),
		column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		ageColumn(),
		wideColumn("IP", "string", status["podIP"]),
		wideColumn("Node", "string", spec["nodeName"]),
		wideColumn("Nominated Node", "string", status["nominatedNodeName"]),
		wideColumn("Readiness Gates", "string", spec["readinessGates"]),
	}
}

// podRow prints a pod as kubectl get pods shows it.
func podRow(obj runtime.Object, now time.Time) []any {
	pod := obj.(*corev1.Pod)
	s := summarize(pod)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts != 0 && !s.lastRestart.IsZero() {
		restarts += " (" + age(s.lastRestart, now) + " ago)"
	}
	ip := ""
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return []any{
		pod.Name, ratio(s.ready, s.containers), s.reason, restarts, age(pod.CreationTimestamp, now),
		orNone(ip), orNone(pod.Spec.NodeName), orNone(pod.Status.NominatedNodeName), printReadinessGates(pod),
	}
}

// podRowConditions marks pods that have ended, which kubectl may leave out.
func podRowConditions(obj runtime.Object) []metav1.TableRowCondition {
	completed := metav1.TableRowCondition{Type: metav1.RowCompleted, Status: metav1.ConditionTrue}
	switch phase := obj.(*corev1.Pod).Status.Phase; phase {
	case corev1.PodSucceeded:
		completed.Reason, completed.Message = string(phase), "The pod has completed successfully."
	case corev1.PodFailed:
		completed.Reason, completed.Message = string(phase), "The pod failed."
	default:
		return nil
	}
	return []metav1.TableRowCondition{completed}
}

// podSummary is one pod in one line.
type podSummary struct {
	ready, containers int
	reason            string
	restarts          int
	lastRestart       metav1.Time
}

// countRestarts adds the restarts of one container.
func (s *podSummary) countRestarts(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && s.lastRestart.Before(&t.FinishedAt) {
		s.lastRestart = t.FinishedAt
	}
}

// summarize finds the one word that says most about the pod: the phase, or a reason given for it; better, what
// the first unfinished init container is doing; else what the first container with something to tell tells;
// above all that the pod is on its way out.
func summarize(pod *corev1.Pod) podSummary {
	status := &pod.Status
	s := podSummary{reason: string(status.Phase), containers: len(pod.Spec.Containers)}
	if status.Reason != "" {
		s.reason = status.Reason
	}
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = c.Reason
		}
	}
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			s.containers++
		}
	}

	var sidecars podSummary // the restarts of the sidecars alone
	initializing := s.addInitContainers(pod, &sidecars)
	if !initializing || podCondition(status, corev1.PodInitialized) == corev1.ConditionTrue {
		// The other init containers' restarts are forgotten once they have done their work.
		s.restarts, s.lastRestart = sidecars.restarts, sidecars.lastRestart
		s.addContainers(pod)
	}

	if pod.DeletionTimestamp != nil {
		if status.Reason == "NodeLost" {
			s.reason = string(corev1.PodUnknown)
		} else if status.Phase != corev1.PodSucceeded && status.Phase != corev1.PodFailed {
			s.reason = "Terminating"
		}
	}
	return s
}

// addInitContainers looks at the init containers up to the first that is neither done nor a started sidecar, and
// reports whether there is one. It counts the restarts of sidecars a second time in sidecars.
func (s *podSummary) addInitContainers(pod *corev1.Pod, sidecars *podSummary) (initializing bool) {
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		s.countRestarts(c)
		sidecar := isSidecar(initContainer(pod, c.Name))
		if sidecar {
			sidecars.countRestarts(c)
		}
		if isDone(c) {
			continue
		}
		if sidecar && isTrue(c.Started) {
			if c.Ready {
				s.ready++
			}
			continue
		}
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case t != nil:
			s.reason = "Init:" + terminationReason(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.reason = "Init:" + w.Reason
		default:
			s.reason = "Init:" + ratio(i, len(pod.Spec.InitContainers))
		}
		return true
	}
	return false
}

// addContainers looks at the containers, the first of them having the last word.
func (s *podSummary) addContainers(pod *corev1.Pod) {
	running, failure := false, ""
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.countRestarts(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			s.reason = w.Reason
		case t != nil:
			s.reason = terminationReason(t)
			if t.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason != "Completed" {
		return
	}
	// One container has completed; the pod has not, as long as another runs or has failed.
	switch {
	case running && podCondition(&pod.Status, corev1.PodReady) == corev1.ConditionTrue:
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case running:
		s.reason = "NotReady"
	}
}

// terminationReason is the runtime's word for the end of a container, or its signal or exit code.
func terminationReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return "Signal:" + strconv.Itoa(int(t.Signal))
	}
	return "ExitCode:" + strconv.Itoa(int(t.ExitCode))
}

func printReadinessGates(pod *corev1.Pod) string {
	gates := pod.Spec.ReadinessGates
	if len(gates) == 0 {
		return "<none>"
	}
	open := 0
	for _, g := range gates {
		if podCondition(&pod.Status, g.ConditionType) == corev1.ConditionTrue {
			open++
		}
	}
	return ratio(open, len(gates))
}

func ratio(part, whole int) string { return strconv.Itoa(part) + "/" + strconv.Itoa(whole) }

// isDone reports whether an init container has ended well.
func isDone(c *corev1.ContainerStatus) bool {
	return c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
}

// podCondition returns the status of the first condition of a type, empty when there is none.
func podCondition(s *corev1.PodStatus, t corev1.PodConditionType) corev1.ConditionStatus {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return s.Conditions[i].Status
		}
	}
	return ""
}

func initContainer(pod *corev1.Pod, name string) *corev1.Container {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	return nil
}

// isSidecar reports whether an init container keeps running beside the others (KEP-753). c may be nil.
func isSidecar(c *corev1.Container) bool {
	return c != nil && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func isTrue(b *bool) bool { return b != nil && *b }
