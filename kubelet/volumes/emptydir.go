package volumes

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// emptyDir makes a directory that lives as long as the pod: on the node's disk, in memory, or of huge pages.
type emptyDir struct {
	allocatable func() corev1.ResourceList
	mount       func(kind, dir, options string) error
}

func (*emptyDir) Name() string                   { return "kubernetes.io/empty-dir" }
func (*emptyDir) Supports(v *corev1.Volume) bool { return v.EmptyDir != nil || onlyName(v) }

// onlyName: a volume without a source is an emptyDir (the API server's default fills it in; static pods may not have passed one).
func onlyName(v *corev1.Volume) bool { return v.VolumeSource == corev1.VolumeSource{} }

func (e *emptyDir) SetUp(_ context.Context, r Request) (Result, error) {
	medium := corev1.StorageMediumDefault
	var limit *resource.Quantity
	if s := r.Volume.EmptyDir; s != nil {
		medium, limit = s.Medium, s.SizeLimit
	}
	fresh, err := makeDir(r.Dir, 0o777)
	if err != nil {
		return Result{}, err
	}
	if medium != corev1.StorageMediumDefault {
		mounted, err := isMountPoint(r.Dir)
		if err != nil {
			return Result{}, err
		}
		if !mounted {
			if err := e.mountMedium(r, medium, limit); err != nil {
				return Result{}, err
			}
			if err := os.Chmod(r.Dir, 0o777); err != nil {
				return Result{}, fmt.Errorf("make volume directory: %w", err)
			}
			fresh = true
		}
	}
	// Only what we have just made: later its content is the containers', who may be writing.
	if group := fsGroup(r.Pod); group != nil && fresh {
		if err := setOwnership(r.Dir, *group, false); err != nil {
			return Result{}, err
		}
	}
	return Result{Path: r.Dir}, nil
}

func (e *emptyDir) mountMedium(r Request, medium corev1.StorageMedium, limit *resource.Quantity) error {
	switch {
	case medium == corev1.StorageMediumMemory:
		return mountTmpfs(r.Dir, memoryBound(r.Pod, limit, e.allocatable()), false)
	case medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)):
		size, err := pageSize(r.Pod, medium)
		if err != nil {
			return err
		}
		return e.mount("hugetlbfs", r.Dir, "pagesize="+strconv.FormatInt(size, 10))
	}
	return fmt.Errorf("unknown storage medium %q", medium)
}

// pageSize is the medium's page size in bytes; the medium HugePages means the only size the pod asks for.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	if medium != corev1.StorageMediumHugePages {
		q, err := resource.ParseQuantity(strings.TrimPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)))
		if err != nil {
			return 0, fmt.Errorf("page size of medium %q: %w", medium, err)
		}
		return q.Value(), nil
	}
	var size int64
	for name := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		s, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return 0, fmt.Errorf("page size of %s: %w", name, err)
		}
		if size != 0 && size != q.Value() {
			return 0, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
		}
		size = q.Value()
	}
	if size == 0 {
		return 0, fmt.Errorf("no huge pages requested by the pod for medium %q", medium)
	}
	return size, nil
}

// memoryBound is how large a memory volume may grow (KEP-1967): no further than its own limit, the pod's memory limit
// and what the node offers. 0 is the kernel's default.
func memoryBound(pod *corev1.Pod, limit *resource.Quantity, allocatable corev1.ResourceList) int64 {
	var bound int64
	lower := func(q resource.Quantity) {
		if v := q.Value(); v > 0 && (bound == 0 || v < bound) {
			bound = v
		}
	}
	lower(allocatable[corev1.ResourceMemory])
	if limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{}); allLimited(pod) {
		lower(limits[corev1.ResourceMemory])
	}
	if limit != nil {
		lower(*limit)
	}
	return bound
}

// allLimited says whether the pod's memory has a limit: its own, or one in every container.
func allLimited(pod *corev1.Pod) bool {
	if r := pod.Spec.Resources; r != nil && !r.Limits.Memory().IsZero() {
		return true
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
			return false
		}
	}
	return true
}

// TearDown unmounts; the content on disk goes with the pod's directory.
func (*emptyDir) TearDown(_ context.Context, _ types.UID, _, dir string) error { return unmount(dir) }

func mountFilesystem(kind, dir, options string) error {
	if err := unix.Mount(kind, dir, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s with %q: %w", kind, dir, options, err)
	}
	return nil
}

// noswap says whether tmpfs knows the option noswap (Linux 6.3): content from Secrets must not reach a swap device.
var noswap = sync.OnceValue(func() bool {
	fd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.FsconfigSetFlag(fd, "noswap") == nil
})

// mountTmpfs mounts a tmpfs of at most size bytes (0: the kernel's default).
func mountTmpfs(dir string, size int64, secret bool) error {
	var options []string
	if size > 0 {
		options = append(options, "size="+strconv.FormatInt(size, 10))
	}
	if secret && noswap() {
		options = append(options, "noswap")
	}
	// relatime as mount(8) would; the root's mode is the sticky 1777 of a tmpfs by default, volumes want 0777.
	options = append(options, "mode=0777")
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RELATIME, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}
