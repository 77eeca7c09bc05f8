package runtime

import (
	"strconv"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func nanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

func state(s cri.ContainerState) State {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return Created
	case cri.ContainerState_CONTAINER_RUNNING:
		return Running
	case cri.ContainerState_CONTAINER_EXITED:
		return Exited
	}
	return Unknown
}

// attempt prefers the annotation, which survives a sandbox whose attempt counter started anew.
func attempt(meta *cri.ContainerMetadata, annotations map[string]string) int {
	if n, err := strconv.Atoi(annotations[AnnotationRestartCount]); err == nil {
		return n
	}
	return int(meta.GetAttempt())
}

func containerOfStatus(s *cri.ContainerStatus, sandboxID string) Container {
	c := Container{
		ID: s.GetId(), Name: s.GetLabels()[LabelContainerName], PodUID: s.GetLabels()[LabelPodUID], SandboxID: sandboxID,
		Attempt: attempt(s.GetMetadata(), s.GetAnnotations()), State: state(s.GetState()),
		CreatedAt: nanos(s.GetCreatedAt()), StartedAt: nanos(s.GetStartedAt()), FinishedAt: nanos(s.GetFinishedAt()),
		ExitCode: s.GetExitCode(), Reason: s.GetReason(), Message: s.GetMessage(),
		Image: s.GetImage().GetImage(), ImageID: s.GetImageRef(), Hash: s.GetAnnotations()[AnnotationHash],
		LogPath: s.GetLogPath(), Resources: s.GetResources().GetLinux(), User: s.GetUser().GetLinux(),
		StopSignal: s.GetStopSignal(), Annotations: s.GetAnnotations(),
	}
	if c.Name == "" {
		c.Name = s.GetMetadata().GetName()
	}
	return c
}

func containerOfList(s *cri.Container) Container {
	return Container{
		ID: s.GetId(), Name: s.GetLabels()[LabelContainerName], PodUID: s.GetLabels()[LabelPodUID], SandboxID: s.GetPodSandboxId(),
		Attempt: attempt(s.GetMetadata(), s.GetAnnotations()), State: state(s.GetState()), CreatedAt: nanos(s.GetCreatedAt()),
		Image: s.GetImage().GetImage(), ImageID: s.GetImageRef(), Hash: s.GetAnnotations()[AnnotationHash], Annotations: s.GetAnnotations(),
	}
}

func sandboxOfStatus(s *cri.PodSandboxStatus) Sandbox {
	b := Sandbox{
		ID: s.GetId(), PodUID: s.GetMetadata().GetUid(), Name: s.GetMetadata().GetName(), Namespace: s.GetMetadata().GetNamespace(),
		Attempt: int(s.GetMetadata().GetAttempt()), Ready: s.GetState() == cri.PodSandboxState_SANDBOX_READY,
		CreatedAt: nanos(s.GetCreatedAt()), RuntimeHandler: s.GetRuntimeHandler(), Annotations: s.GetAnnotations(), Detailed: true,
		HostNetwork: s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE,
	}
	if b.HostNetwork {
		return b
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		b.IPs = append(b.IPs, ip)
	}
	for _, more := range s.GetNetwork().GetAdditionalIps() {
		b.IPs = append(b.IPs, more.GetIp())
	}
	return b
}

func sandboxOfList(s *cri.PodSandbox) Sandbox {
	return Sandbox{
		ID: s.GetId(), PodUID: s.GetMetadata().GetUid(), Name: s.GetMetadata().GetName(), Namespace: s.GetMetadata().GetNamespace(),
		Attempt: int(s.GetMetadata().GetAttempt()), Ready: s.GetState() == cri.PodSandboxState_SANDBOX_READY,
		CreatedAt: nanos(s.GetCreatedAt()), RuntimeHandler: s.GetRuntimeHandler(), Annotations: s.GetAnnotations(),
	}
}
