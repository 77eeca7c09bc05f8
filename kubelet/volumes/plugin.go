package volumes

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Plugin makes one kind of volume. The built-in ones are a file each in this package; CSI drivers join by it too.
// A Manager calls a plugin for many pods at once, but never twice at the same time for one pod.
type Plugin interface {
	// Name is the kind's name upstream, such as kubernetes.io/configmap; the volume's directory is named after it.
	Name() string
	// Supports says whether the plugin makes this volume.
	Supports(*corev1.Volume) bool
	// SetUp makes the volume or, where it exists, brings it up to date. Called again after a restart of the kubelet
	// and whenever something the volume shows may have changed. On error it may leave things behind for TearDown.
	SetUp(context.Context, Request) (Result, error)
	// TearDown undoes SetUp, whatever its outcome, before the volume's directory is removed. It may know only what
	// the directory tells: the pod may be gone and the kubelet new. Undoing what is not there is no error.
	TearDown(ctx context.Context, pod types.UID, volume, dir string) error
}

// Request says which volume to make.
type Request struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	Dir    string // the volume's own directory in the pod's; the plugin makes it if it needs it
}

// Result is a volume that is ready.
type Result struct {
	Path     string    // what containers see, on the host; empty for an image volume
	ReadOnly bool      // containers may only read it, whatever their mount says
	Refresh  time.Time // when SetUp must be called again at the latest; zero for never
	Image    string    // an image volume's reference: the runtime mounts it
}

// fsGroup is the group that owns the pod's volumes; nil for none.
func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// escape turns a plugin's name into its directory's.
func escape(plugin string) string { return strings.ReplaceAll(plugin, "/", "~") }
