package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/kubelet/downward"
	"wherry.dev/wherry/kubelet/volumes/objects"
)

// contentTree builds and shows volumes whose content comes from the API: the four kinds share all but their source.
type contentTree struct {
	objects      *objects.Cache
	tokens       *tokens
	certificates *podCertificates
	allocatable  func() corev1.ResourceList
	api          kubernetes.Interface
}

// show makes the volume's directory (in memory where secret is set, so that the content never reaches a disk) and
// makes it show the payload.
func (t contentTree) show(r Request, p payload, secret bool) error {
	group := fsGroup(r.Pod)
	fresh, err := makeDir(r.Dir, 0o777)
	if err != nil {
		return err
	}
	if secret {
		mounted, err := isMountPoint(r.Dir)
		if err != nil {
			return err
		}
		if !mounted {
			if err := mountTmpfs(r.Dir, memoryBound(r.Pod, nil, t.allocatable()), true); err != nil {
				return err
			}
			fresh = true
		}
	}
	var own func(string) error
	if group != nil {
		own = func(dir string) error { return setOwnership(dir, *group, true) }
		if fresh {
			if err := own(r.Dir); err != nil {
				return err
			}
		}
	}
	_, err = writeAtomically(r.Dir, p, own)
	return err
}

// tearDown takes a content volume's mount away; its directory goes with the pod's.
func (contentTree) tearDown(dir string) error { return unmount(dir) }

// makeDir makes a directory with exactly this mode, whatever the umask, and says whether it was not there before.
func makeDir(dir string, mode fs.FileMode) (fresh bool, err error) {
	if _, err := os.Lstat(dir); err == nil {
		return false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("make volume directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return false, fmt.Errorf("make volume directory: %w", err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return false, fmt.Errorf("make volume directory: %w", err)
	}
	return true, nil
}

func optional(b *bool) bool { return b != nil && *b }

// modeOf is a key's own mode, else the volume's, else 0644.
func modeOf(own, whole *int32) fs.FileMode {
	switch {
	case own != nil:
		return fs.FileMode(*own) & 0o777
	case whole != nil:
		return fs.FileMode(*whole) & 0o777
	}
	return 0o644
}

// pick adds the chosen keys (all, when none are named) to the payload.
func pick(p payload, items []corev1.KeyToPath, defaultMode *int32, may bool, what string, get func(key string) ([]byte, bool), keys func(func(string))) error {
	if len(items) == 0 {
		keys(func(k string) {
			data, _ := get(k)
			p[k] = file{data: data, mode: modeOf(nil, defaultMode)}
		})
		return nil
	}
	for _, item := range items {
		data, ok := get(item.Key)
		if !ok {
			if may {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", what, item.Key)
		}
		p[item.Path] = file{data: data, mode: modeOf(item.Mode, defaultMode)}
	}
	return nil
}

func (t contentTree) configMap(ctx context.Context, p payload, pod *corev1.Pod, name string, items []corev1.KeyToPath, mode *int32, may bool) error {
	o, err := t.objects.ConfigMap(ctx, pod.UID, pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return nil
		}
		return missing("configmap", pod.Namespace, name, err)
	}
	err = pick(p, items, mode, may, "config", func(k string) ([]byte, bool) {
		if s, ok := o.Data[k]; ok {
			return []byte(s), true
		}
		b, ok := o.BinaryData[k]
		return b, ok
	}, func(yield func(string)) {
		for k := range o.Data {
			yield(k)
		}
		for k := range o.BinaryData {
			yield(k)
		}
	})
	if err != nil {
		return fmt.Errorf("configmap %w", err)
	}
	return nil
}

func (t contentTree) secret(ctx context.Context, p payload, pod *corev1.Pod, name string, items []corev1.KeyToPath, mode *int32, may bool) error {
	o, err := t.objects.Secret(ctx, pod.UID, pod.Namespace, name)
	if err != nil {
		if may && apierrors.IsNotFound(err) {
			return nil
		}
		return missing("secret", pod.Namespace, name, err)
	}
	return pick(p, items, mode, may, "secret", func(k string) ([]byte, bool) {
		b, ok := o.Data[k]
		return b, ok
	}, func(yield func(string)) {
		for k := range o.Data {
			yield(k)
		}
	})
}

// missing words an object that cannot be read as upstream's event does.
func missing(kind, namespace, name string, err error) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%s %q not found", kind, name)
	}
	return fmt.Errorf("couldn't get %s %s/%s: %w", kind, namespace, name, err)
}

func (t contentTree) downward(p payload, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	var errs []error
	for i := range items {
		item := &items[i]
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			container := downward.Container(pod, item.ResourceFieldRef.ContainerName)
			if container == nil {
				err = fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
				break
			}
			text, err = downward.Resource(pod, container, item.ResourceFieldRef, t.allocatable())
		default:
			err = errors.New("neither fieldRef nor resourceFieldRef")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", item.Path, err))
			continue
		}
		p[item.Path] = file{data: []byte(text), mode: modeOf(item.Mode, mode)}
	}
	return errors.Join(errs...)
}

// The plugins of the four kinds.

type configMap struct{ contentTree }

func (*configMap) Name() string                   { return "kubernetes.io/configmap" }
func (*configMap) Supports(v *corev1.Volume) bool { return v.ConfigMap != nil }

func (c *configMap) SetUp(ctx context.Context, r Request) (Result, error) {
	s := r.Volume.ConfigMap
	p := payload{}
	if err := c.configMap(ctx, p, r.Pod, s.Name, s.Items, s.DefaultMode, optional(s.Optional)); err != nil {
		return Result{}, err
	}
	return Result{Path: r.Dir, ReadOnly: true}, c.show(r, p, false)
}

func (c *configMap) TearDown(_ context.Context, _ types.UID, _, dir string) error {
	return c.tearDown(dir)
}

type secret struct{ contentTree }

func (*secret) Name() string                   { return "kubernetes.io/secret" }
func (*secret) Supports(v *corev1.Volume) bool { return v.Secret != nil }

func (c *secret) SetUp(ctx context.Context, r Request) (Result, error) {
	s := r.Volume.Secret
	p := payload{}
	if err := c.secret(ctx, p, r.Pod, s.SecretName, s.Items, s.DefaultMode, optional(s.Optional)); err != nil {
		return Result{}, err
	}
	return Result{Path: r.Dir, ReadOnly: true}, c.show(r, p, true)
}

func (c *secret) TearDown(_ context.Context, _ types.UID, _, dir string) error {
	return c.tearDown(dir)
}

type downwardAPI struct{ contentTree }

func (*downwardAPI) Name() string                   { return "kubernetes.io/downward-api" }
func (*downwardAPI) Supports(v *corev1.Volume) bool { return v.DownwardAPI != nil }

func (c *downwardAPI) SetUp(_ context.Context, r Request) (Result, error) {
	s := r.Volume.DownwardAPI
	p := payload{}
	if err := c.downward(p, r.Pod, s.Items, s.DefaultMode); err != nil {
		return Result{}, err
	}
	return Result{Path: r.Dir, ReadOnly: true}, c.show(r, p, true)
}

func (c *downwardAPI) TearDown(_ context.Context, _ types.UID, _, dir string) error {
	return c.tearDown(dir)
}

type projected struct{ contentTree }

func (*projected) Name() string                   { return "kubernetes.io/projected" }
func (*projected) Supports(v *corev1.Volume) bool { return v.Projected != nil }

func (c *projected) SetUp(ctx context.Context, r Request) (Result, error) {
	s := r.Volume.Projected
	p := payload{}
	var refresh time.Time
	var errs []error
	for i := range s.Sources {
		var err error
		switch src := &s.Sources[i]; {
		case src.ConfigMap != nil:
			err = c.configMap(ctx, p, r.Pod, src.ConfigMap.Name, src.ConfigMap.Items, s.DefaultMode, optional(src.ConfigMap.Optional))
		case src.Secret != nil:
			err = c.secret(ctx, p, r.Pod, src.Secret.Name, src.Secret.Items, s.DefaultMode, optional(src.Secret.Optional))
		case src.DownwardAPI != nil:
			err = c.downward(p, r.Pod, src.DownwardAPI.Items, s.DefaultMode)
		case src.ServiceAccountToken != nil:
			var at time.Time
			if at, err = c.token(ctx, p, r.Pod, src.ServiceAccountToken, s.DefaultMode); err == nil && (refresh.IsZero() || at.Before(refresh)) {
				refresh = at
			}
		case src.ClusterTrustBundle != nil:
			err = c.trustBundle(ctx, p, src.ClusterTrustBundle, s.DefaultMode)
		case src.PodCertificate != nil:
			var at time.Time
			if at, err = c.podCertificate(ctx, p, r.Pod, certificateSource{r.Volume.Name, i}, src.PodCertificate, s.DefaultMode); err == nil && (refresh.IsZero() || at.Before(refresh)) {
				refresh = at
			}
		default:
			err = errors.New("projected volume source is of a kind this kubelet does not know")
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return Result{}, errors.Join(errs...)
	}
	return Result{Path: r.Dir, ReadOnly: true, Refresh: refresh}, c.show(r, p, true)
}

func (c *projected) TearDown(_ context.Context, pod types.UID, _, dir string) error {
	c.tokens.forget(pod)
	c.certificates.forget(pod)
	return c.tearDown(dir)
}
