// Package bootstraptoken removes join tokens when they expire, and signs the public ConfigMap kube-public/cluster-info
// with each of them, so that a joining node can trust what it reads there (upstream's tokencleaner and bootstrapsigner).
package bootstraptoken

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/pki"
)

// Config of the controller.
type Config struct {
	Client *client.Set
	// Now is the clock; default time.Now.
	Now func() time.Time
	Log *slog.Logger
	// Ready is called when tokens are being watched. May be nil.
	Ready func()
}

// signAll is the queue's item for cluster-info; others are names of Secrets.
const signAll = ""

type controller struct {
	Config
	secrets    corelisters.SecretLister
	configMaps corelisters.ConfigMapLister
	loop       *client.Loop
}

// Run works until ctx ends and returns when its goroutines have ended. Nothing happens between expiries.
func Run(ctx context.Context, c Config) error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	core := c.Client.Informers.Core().V1()
	x := &controller{Config: c, secrets: core.Secrets().Lister(), configMaps: core.ConfigMaps().Lister()}
	x.loop = client.NewLoop("bootstraptoken", 1, c.Log, x.reconcile)
	var handlers client.Handlers
	defer handlers.Remove()
	if err := handlers.On(core.Secrets().Informer(), client.Each(func(secret *corev1.Secret) {
		if secret.Namespace == pki.BootstrapTokenNamespace && secret.Type == pki.BootstrapTokenSecretType {
			x.loop.Add(secret.Name)
			x.loop.Add(signAll)
		}
	})); err != nil {
		return fmt.Errorf("bootstrap token controller: %w", err)
	}
	if err := handlers.On(core.ConfigMaps().Informer(), client.Each(func(m *corev1.ConfigMap) {
		if m.Namespace == pki.ClusterInfoNamespace && m.Name == pki.ClusterInfoName {
			x.loop.Add(signAll)
		}
	})); err != nil {
		return fmt.Errorf("bootstrap token controller: %w", err)
	}
	if !handlers.Sync(ctx, c.Client) {
		return nil
	}
	if c.Ready != nil {
		c.Ready()
	}
	x.loop.Run(ctx)
	return nil
}

func (x *controller) reconcile(ctx context.Context, name string) error {
	if name == signAll {
		return x.sign(ctx)
	}
	again, err := x.expire(ctx, name)
	if err == nil && again > 0 {
		x.loop.AddAfter(name, again)
	}
	return err
}

// expire removes a token whose time is over, or says when that will be.
func (x *controller) expire(ctx context.Context, name string) (time.Duration, error) {
	secret, err := x.secrets.Secrets(pki.BootstrapTokenNamespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	expires, ok := expiry(secret)
	if !ok {
		return 0, nil
	}
	if left := expires.Sub(x.Now()); left > 0 {
		return left, nil
	}
	err = x.Client.Kubernetes.CoreV1().Secrets(secret.Namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return 0, fmt.Errorf("delete expired token %s: %w", name, err)
	}
	return 0, nil
}

// expiry returns when a token ends; ok is false for those that never do. What cannot be read has ended.
func expiry(secret *corev1.Secret) (at time.Time, ok bool) {
	text := string(secret.Data[pki.BootstrapTokenExpirationKey])
	if text == "" {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return at, true
}

// sign puts one signature of the kubeconfig for each valid signing token into cluster-info, and takes others out.
func (x *controller) sign(ctx context.Context) error {
	info, err := x.configMaps.ConfigMaps(pki.ClusterInfoNamespace).Get(pki.ClusterInfoName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	secrets, err := x.secrets.Secrets(pki.BootstrapTokenNamespace).List(labels.Everything())
	if err != nil {
		return err
	}
	want := maps.Clone(info.Data)
	for key := range want {
		if strings.HasPrefix(key, pki.ClusterInfoSignaturePrefix) {
			delete(want, key)
		}
	}
	content := info.Data[pki.ClusterInfoKubeconfigKey]
	for _, secret := range secrets {
		id, token := string(secret.Data[pki.BootstrapTokenIDKey]), string(secret.Data[pki.BootstrapTokenSecretKey])
		if secret.Type != pki.BootstrapTokenSecretType || secret.Name != pki.BootstrapTokenSecretPrefix+id || string(secret.Data[pki.BootstrapTokenSigningKey]) != "true" {
			continue
		}
		if expires, ok := expiry(secret); ok && !x.Now().Before(expires) {
			continue
		}
		signature, err := pki.SignClusterInfo(content, id, token)
		if err != nil {
			return err
		}
		want[pki.ClusterInfoSignaturePrefix+id] = signature
	}
	if maps.Equal(want, info.Data) {
		return nil
	}
	fresh := info.DeepCopy()
	fresh.Data = want
	if _, err := x.Client.Kubernetes.CoreV1().ConfigMaps(info.Namespace).Update(ctx, fresh, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("sign cluster-info: %w", err)
	}
	return nil
}
