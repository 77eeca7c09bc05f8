package volumes

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ContainerMount is what one of a container's volumeMounts comes to.
type ContainerMount struct {
	Name              string // the volume
	ContainerPath     string
	HostPath          string // empty for an image volume
	ReadOnly          bool
	RecursiveReadOnly bool
	Propagation       corev1.MountPropagationMode // never empty
	Image             string                      // an image volume's reference
	ImageSubPath      string
}

// ContainerRequest asks for a container's mounts.
type ContainerRequest struct {
	Pod           *corev1.Pod
	Name          string // the container's
	VolumeMounts  []corev1.VolumeMount
	VolumeDevices []corev1.VolumeDevice
	// Env resolves $(NAME) in subPathExpr from the container's environment.
	Env func(name string) (value string, ok bool)
	// RecursiveReadOnly says whether the pod's runtime handler can make mounts read-only recursively (KEP-3857).
	RecursiveReadOnly bool
}

// ContainerMounts resolves a container's mounts against the volumes Mount has made. It is to be called before each
// start of the container, for a subPath may have been replaced. Its errors are messages for CreateContainerConfigError.
func (m *Manager) ContainerMounts(_ context.Context, r ContainerRequest) ([]ContainerMount, error) {
	if len(r.VolumeMounts) == 0 && len(r.VolumeDevices) == 0 {
		return nil, nil
	}
	if len(r.VolumeDevices) > 0 {
		return nil, fmt.Errorf("block volume %q: no block volume plugin matched", r.VolumeDevices[0].Name)
	}
	m.mu.Lock()
	p := m.pods[r.Pod.UID]
	m.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("volumes of pod %s/%s are not mounted", r.Pod.Namespace, r.Pod.Name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	mounts := make([]ContainerMount, 0, len(r.VolumeMounts))
	for i := range r.VolumeMounts {
		mount, err := m.containerMount(p, &r, i)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// containerMount resolves one mount. Callers hold p.mu.
func (m *Manager) containerMount(p *podVolumes, r *ContainerRequest, i int) (ContainerMount, error) {
	want := &r.VolumeMounts[i]
	volume, ok := p.volumes[want.Name]
	if !ok || p.gone {
		return ContainerMount{}, fmt.Errorf("cannot find volume %q to mount into container %q", want.Name, r.Name)
	}
	mount := ContainerMount{Name: want.Name, ContainerPath: want.MountPath, HostPath: volume.Path, Image: volume.Image,
		ReadOnly: want.ReadOnly || volume.ReadOnly, Propagation: corev1.MountPropagationNone}
	if !filepath.IsAbs(mount.ContainerPath) {
		mount.ContainerPath = filepath.Join("/", mount.ContainerPath)
	}
	if want.MountPropagation != nil {
		mount.Propagation = *want.MountPropagation
	}
	if want.RecursiveReadOnly != nil {
		switch mode := *want.RecursiveReadOnly; {
		case mode == corev1.RecursiveReadOnlyDisabled:
		case !want.ReadOnly:
			return ContainerMount{}, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", want.Name)
		case mount.Propagation != corev1.MountPropagationNone:
			return ContainerMount{}, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", want.Name, mount.Propagation)
		case mode == corev1.RecursiveReadOnlyIfPossible:
			mount.RecursiveReadOnly = r.RecursiveReadOnly
		case mode == corev1.RecursiveReadOnlyEnabled && !r.RecursiveReadOnly:
			return ContainerMount{}, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", want.Name)
		case mode == corev1.RecursiveReadOnlyEnabled:
			mount.RecursiveReadOnly = true
		default:
			return ContainerMount{}, fmt.Errorf("unknown recursive read-only mode %q", mode)
		}
	}
	part := want.SubPath
	if want.SubPathExpr != "" {
		var err error
		if part, err = expand(want.SubPathExpr, r.Env); err != nil {
			return ContainerMount{}, err
		}
	}
	if part == "" {
		return mount, nil
	}
	if filepath.IsAbs(part) {
		return ContainerMount{}, fmt.Errorf("error SubPath `%s` must not be an absolute path", part)
	}
	for s := range strings.SplitSeq(part, "/") {
		if s == ".." {
			return ContainerMount{}, fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", part)
		}
	}
	if volume.Image != "" {
		mount.ImageSubPath = part
		return mount, nil
	}
	target := filepath.Join(m.PodDir(r.Pod.UID), "volume-subpaths", want.Name, r.Name, strconv.Itoa(i))
	if err := subPath(volume.Path, part, target); err != nil {
		return ContainerMount{}, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", want.Name, r.Name, err)
	}
	mount.HostPath = target
	return mount, nil
}

// expand replaces $(NAME) by its value; $$ is a dollar sign. A name without a value is an error: half a path could be
// another pod's.
func expand(text string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := text[i+2 : i+end]
			value, ok := "", false
			if env != nil {
				value, ok = env(name)
			}
			if !ok {
				return "", fmt.Errorf("missing value for %q", name)
			}
			b.WriteString(value)
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String(), nil
}
