// Package images brings the images that containers need onto the node (stage C10, pull): pull policies, pull secrets,
// a limit on pulls at once, and back-off, with the events upstream's kubelet gives. The pulling itself is the runtime's.
package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/kubelet/runtime"
)

// Reasons for which a container waits for its image, as its status shows them.
const (
	ErrImagePull        = "ErrImagePull"
	ErrImagePullBackOff = "ImagePullBackOff"
	ErrImageNeverPull   = "ErrImageNeverPull"
	ErrInvalidImageName = "InvalidImageName"
	ErrImageInspect     = "ImageInspectError"
)

// Back-off of failing pulls, by pod and image.
const (
	backoffFirst = 10 * time.Second
	backoffLimit = 5 * time.Minute
	showError    = 2 * time.Second
)

// Runtime is what images needs of kubelet/runtime's client.
type Runtime interface {
	ImageStatus(ctx context.Context, ref, handler string) (runtime.Image, bool, error)
	PullImage(ctx context.Context, ref, handler string, auth *runtime.Auth, sandbox *runtime.SandboxConfig) (string, error)
}

// Secrets reads pull secrets; see containers.Objects.
type Secrets interface {
	Secret(ctx context.Context, pod types.UID, namespace, name string) (*v1.Secret, error)
}

// Event reports to the user about one container. It must not block.
type Event func(eventType, reason, message string)

// Config is what a Manager needs.
type Config struct {
	Runtime Runtime
	Objects Secrets
	// Parallel bounds pulls at once; 0 is no bound.
	Parallel int
	// Preloaded is closed when the images that come with the node are imported. An image that is not there is not pulled
	// before: it may be on its way. Nil: there are none.
	Preloaded <-chan struct{}
	Log       *slog.Logger
}

// Manager finds and pulls images. Safe for concurrent use. Two pods that want the same image pull it once: the runtime joins them.
type Manager struct {
	c     Config
	slots chan struct{}

	mu       sync.Mutex
	backoffs map[backoffKey]backoff // guarded by mu; entries go with their pod (Forget)
}

type backoffKey struct {
	pod   types.UID
	image string
}

type backoff struct {
	delay time.Duration
	until time.Time
	err   string // why the last pull failed
}

// New makes a manager.
func New(c Config) *Manager {
	m := &Manager{c: c, backoffs: map[backoffKey]backoff{}}
	if c.Parallel > 0 {
		m.slots = make(chan struct{}, c.Parallel)
	}
	if m.c.Log == nil {
		m.c.Log = slog.Default()
	}
	return m
}

// Problem is why an image is not there, in the words of the container's status.
type Problem struct {
	Reason, Message string
	Retry           time.Time // when to try again
}

func (p *Problem) Error() string { return p.Reason + ": " + p.Message }

// Pulled says how an image came to be there.
type Pulled struct {
	Ref    string // the runtime's name for it, to create containers from
	Image  runtime.Image
	Pulled bool // false: it was there
	Took   time.Duration
}

// Forget drops what is remembered for a pod.
func (m *Manager) Forget(pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.backoffs {
		if k.pod == pod {
			delete(m.backoffs, k)
		}
	}
}

// Ensure makes a container's image present by its pull policy. The error is a *Problem unless ctx ended. Of each problem
// there are two events, as upstream tells it: what went wrong, and the reason under which the container's status shows it.
func (m *Manager) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, handler string, sandbox *runtime.SandboxConfig, event Event) (Pulled, error) {
	pulled, err := m.ensure(ctx, pod, c, handler, sandbox, event)
	if problem := (*Problem)(nil); errors.As(err, &problem) {
		event(v1.EventTypeWarning, "Failed", "Error: "+problem.Reason)
	}
	return pulled, err
}

func (m *Manager) ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, handler string, sandbox *runtime.SandboxConfig, event Event) (Pulled, error) {
	name, repository, err := Normalize(c.Image)
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		event(v1.EventTypeWarning, "InspectFailed", msg)
		return Pulled{}, &Problem{ErrInvalidImageName, msg, time.Now().Add(backoffLimit)}
	}
	policy := Policy(c)
	if policy != v1.PullAlways {
		img, ok, err := m.c.Runtime.ImageStatus(ctx, name, handler)
		if err == nil && !ok && m.awaitPreloaded(ctx) {
			img, ok, err = m.c.Runtime.ImageStatus(ctx, name, handler)
		}
		if err != nil {
			if ctx.Err() != nil {
				return Pulled{}, ctx.Err()
			}
			msg := fmt.Sprintf("Failed to inspect image %q: %s", c.Image, runtime.Message(err))
			event(v1.EventTypeWarning, "InspectFailed", msg)
			return Pulled{}, &Problem{ErrImageInspect, msg, time.Now().Add(backoffFirst)}
		}
		if ok {
			m.clear(pod.UID, name)
			event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", c.Image))
			return Pulled{Ref: img.ID, Image: img}, nil
		}
		if policy == v1.PullNever {
			msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			event(v1.EventTypeWarning, ErrImageNeverPull, msg)
			return Pulled{}, &Problem{ErrImageNeverPull, msg, time.Now().Add(backoffFirst)}
		}
	}
	if b, held := m.held(pod.UID, name); held {
		msg := fmt.Sprintf("Back-off pulling image %q", c.Image)
		event(v1.EventTypeNormal, "BackOff", msg)
		return Pulled{}, &Problem{ErrImagePullBackOff, msg + ": " + ErrImagePull + ": " + b.err, b.until}
	}
	return m.pull(ctx, pod, c, name, repository, handler, sandbox, event)
}

// awaitPreloaded waits for images that are being imported, and reports whether there was anything to wait for.
func (m *Manager) awaitPreloaded(ctx context.Context) bool {
	if m.c.Preloaded == nil {
		return false
	}
	select {
	case <-m.c.Preloaded:
	case <-ctx.Done():
	}
	return true
}

func (m *Manager) pull(ctx context.Context, pod *v1.Pod, c *v1.Container, name, repository, handler string, sandbox *runtime.SandboxConfig, event Event) (Pulled, error) {
	asked := time.Now()
	auths, missing, err := m.credentials(ctx, pod, repository)
	if len(missing) > 0 {
		event(v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	if err == nil && m.slots != nil {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if ctx.Err() != nil {
		return Pulled{}, ctx.Err()
	}
	if err == nil {
		event(v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", c.Image))
	}
	begun := time.Now()
	var ref string
	if err == nil {
		if len(auths) == 0 {
			auths = []*runtime.Auth{nil}
		}
		for _, auth := range auths {
			if ref, err = m.c.Runtime.PullImage(ctx, name, handler, auth, sandbox); err == nil {
				break
			}
		}
	}
	if ctx.Err() != nil {
		return Pulled{}, ctx.Err()
	}
	var img runtime.Image
	if err == nil {
		var ok bool
		if img, ok, err = m.c.Runtime.ImageStatus(ctx, ref, handler); err == nil && !ok {
			err = errors.New("the container runtime lost the image it pulled")
		}
	}
	if err != nil {
		text := runtime.Message(err)
		event(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", c.Image, text))
		retry := m.next(pod.UID, name, text)
		m.c.Log.Info("image pull failed", "pod", pod.Namespace+"/"+pod.Name, "image", c.Image, "retry", time.Until(retry).Round(time.Second), "err", text)
		// Soon again, which finds the back-off: users see first what failed, then that it is being waited for.
		return Pulled{}, &Problem{ErrImagePull, text, time.Now().Add(showError)}
	}
	m.clear(pod.UID, name)
	took := time.Since(begun)
	event(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, took.Truncate(time.Millisecond), time.Since(asked).Truncate(time.Millisecond), img.Size))
	return Pulled{Ref: ref, Image: img, Pulled: true, Took: took}, nil
}

func (m *Manager) held(pod types.UID, image string) (backoff, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.backoffs[backoffKey{pod, image}]
	return b, time.Now().Before(b.until)
}

func (m *Manager) next(pod types.UID, image, err string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := backoffKey{pod, image}
	b := m.backoffs[k]
	b.delay = min(max(2*b.delay, backoffFirst), backoffLimit)
	b.until, b.err = time.Now().Add(b.delay), err
	m.backoffs[k] = b
	return b.until
}

func (m *Manager) clear(pod types.UID, image string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.backoffs, backoffKey{pod, image})
}

// Policy is the container's pull policy, or the default for its tag (core/v1 Container.imagePullPolicy).
func Policy(c *v1.Container) v1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	if name, _, err := Normalize(c.Image); err == nil && strings.HasSuffix(name, ":latest") {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}

// Normalize makes an image's full name: docker.io and library/ where nothing is said, :latest where there is neither
// tag nor digest. repository is the name without tag and digest.
func Normalize(image string) (name, repository string, err error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", "", fmt.Errorf("couldn't parse image name %s: %w", strconv.Quote(image), err)
	}
	named = reference.TagNameOnly(named)
	return named.String(), named.Name(), nil
}
