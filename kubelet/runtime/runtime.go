// Package runtime speaks the Container Runtime Interface (CRI v1) for the kubelet: it is the only door to the
// container runtime, so only it and its fake import the CRI API. It turns the runtime's messages into the few facts
// the kubelet decides on (Sandbox, Container, Pod) and the runtime's event stream into updates of those facts.
//
// Messages which the kubelet builds and hands on untouched (sandbox and container configuration) are the CRI's own,
// named here by alias.
package runtime

import (
	"cmp"
	"slices"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The CRI's configuration messages, which package containers builds and Client sends.
type (
	SandboxConfig            = cri.PodSandboxConfig
	SandboxMetadata          = cri.PodSandboxMetadata
	LinuxSandboxConfig       = cri.LinuxPodSandboxConfig
	SandboxSecurity          = cri.LinuxSandboxSecurityContext
	ContainerConfig          = cri.ContainerConfig
	ContainerMetadata        = cri.ContainerMetadata
	LinuxContainerConfig     = cri.LinuxContainerConfig
	ContainerSecurity        = cri.LinuxContainerSecurityContext
	ContainerResources       = cri.LinuxContainerResources
	HugepageLimit            = cri.HugepageLimit
	Capability               = cri.Capability
	SELinuxOption            = cri.SELinuxOption
	SecurityProfile          = cri.SecurityProfile
	SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy
	NamespaceOption          = cri.NamespaceOption
	UserNamespace            = cri.UserNamespace
	IDMapping                = cri.IDMapping
	Int64Value               = cri.Int64Value
	ImageSpec                = cri.ImageSpec
	KeyValue                 = cri.KeyValue
	Mount                    = cri.Mount
	Device                   = cri.Device
	DNSConfig                = cri.DNSConfig
	PortMapping              = cri.PortMapping
	Protocol                 = cri.Protocol
	Signal                   = cri.Signal
)

// Values of the CRI's enumerations that package containers needs.
const (
	NamespacePod       = cri.NamespaceMode_POD
	NamespaceContainer = cri.NamespaceMode_CONTAINER
	NamespaceNode      = cri.NamespaceMode_NODE
	NamespaceTarget    = cri.NamespaceMode_TARGET

	ProfileRuntimeDefault = cri.SecurityProfile_RuntimeDefault
	ProfileUnconfined     = cri.SecurityProfile_Unconfined
	ProfileLocalhost      = cri.SecurityProfile_Localhost

	PropagationPrivate         = cri.MountPropagation_PROPAGATION_PRIVATE
	PropagationHostToContainer = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	PropagationBidirectional   = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL

	SupplementalGroupsMerge  = cri.SupplementalGroupsPolicy_Merge
	SupplementalGroupsStrict = cri.SupplementalGroupsPolicy_Strict

	ProtocolTCP  = cri.Protocol_TCP
	ProtocolUDP  = cri.Protocol_UDP
	ProtocolSCTP = cri.Protocol_SCTP
)

// SignalByName returns the CRI's number for a Kubernetes signal name such as SIGUSR1; ok is false for a name
// that the CRI does not know.
func SignalByName(name string) (Signal, bool) {
	n, ok := cri.Signal_value["SIGNAL_"+name]
	return Signal(n), ok
}

// Labels and annotations which upstream's kubelet puts on what it makes, by which a restarted kubelet (and crictl)
// finds it again.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash                 = "io.kubernetes.container.hash"
	AnnotationRestartCount         = "io.kubernetes.container.restartCount"
	AnnotationTerminationPath      = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationPolicy    = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPorts                = "io.kubernetes.container.ports"
	AnnotationPreStop              = "io.kubernetes.container.preStopHandler"
	AnnotationPodGracePeriod       = "io.kubernetes.pod.terminationGracePeriod"
	AnnotationPodDeletionGrace     = "io.kubernetes.pod.deletionGracePeriod"
	AnnotationTerminationHostPath  = "wherry.dev/termination-message-host-path"
	AnnotationStopSignal           = "wherry.dev/stop-signal"
	AnnotationContainerKind        = "wherry.dev/container-kind" // init, sidecar, ephemeral or absent
	ContainerKindInit              = "init"
	ContainerKindSidecar           = "sidecar"
	ContainerKindEphemeral         = "ephemeral"
	defaultRequestTimeout          = 2 * time.Minute
	sandboxPatience                = 5 * time.Second
	maxMessage                     = 16 << 20
	safetyRelist                   = 90 * time.Second
	fallbackRelist                 = time.Second
	reconnectFirst, reconnectLimit = 20 * time.Millisecond, time.Second
)

// State is what the runtime knows of a container's process. A container only ever goes forward through the states.
type State int

const (
	Created State = iota // made, not started
	Running              // its process runs
	Exited               // its process has ended
	Unknown              // the runtime has lost track of it; only killing it leads out
)

func (s State) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Exited:
		return "exited"
	}
	return "unknown"
}

// Container is one container instance as the runtime reports it. A value; its slices and maps are never written.
type Container struct {
	ID        string
	Name      string // the container's name in the pod's spec
	PodUID    string
	SandboxID string // empty when only a status was seen; see Client.Watch
	Attempt   int    // how often the container had been restarted when this instance was made
	State     State

	CreatedAt, StartedAt, FinishedAt time.Time // zero until it has happened

	ExitCode        int32
	Reason, Message string // of the exit: Completed, Error, OOMKilled, ContainerCannotRun, ...

	Image   string // as the runtime names it
	ImageID string // digest reference where the runtime has one
	Hash    string // of the spec it was made from; empty if not made by a kubelet

	LogPath     string
	Resources   *ContainerResources // as the runtime applies them; may be nil
	User        *cri.LinuxContainerUser
	StopSignal  Signal
	Annotations map[string]string
}

// Kind is the role recorded when the container was made: ContainerKindInit, ContainerKindSidecar, ContainerKindEphemeral or "".
func (c *Container) Kind() string { return c.Annotations[AnnotationContainerKind] }

// Sandbox is one pod sandbox as the runtime reports it.
type Sandbox struct {
	ID             string
	PodUID         string
	Name           string // the pod's
	Namespace      string // the pod's
	Attempt        int
	Ready          bool
	CreatedAt      time.Time
	IPs            []string // empty for host network
	HostNetwork    bool
	Detailed       bool // IPs and HostNetwork are known: from a status, not from a list
	RuntimeHandler string
	Annotations    map[string]string
}

// Pod is all the runtime has of one pod.
type Pod struct {
	UID, Name, Namespace string
	Sandboxes            []Sandbox   // newest first
	Containers           []Container // newest first
}

// Update is news about one pod. Sandboxes and Containers are merged into what is known; a container's state never
// goes back. Complete says that what existed before At and is not listed is gone.
type Update struct {
	PodUID, Name, Namespace string
	Sandboxes               []Sandbox
	Containers              []Container
	Removed                 []string // IDs of sandboxes and containers that are gone
	Complete                bool
	At                      time.Time // when the runtime was asked; orders Complete against newer things
}

// Sort puts newest things first, as the rest of the kubelet expects.
func (p *Pod) Sort() {
	slices.SortFunc(p.Sandboxes, func(a, b Sandbox) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), b.Attempt-a.Attempt)
	})
	slices.SortFunc(p.Containers, func(a, b Container) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), b.Attempt-a.Attempt)
	})
}
