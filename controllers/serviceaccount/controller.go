// Package serviceaccount gives every namespace its account called default and the ConfigMap kube-root-ca.crt that pods
// read the cluster's authority from, and fills Secrets of type kubernetes.io/service-account-token (upstream's
// serviceaccount, root-ca-certificate-publisher and serviceaccount-token controllers). A new namespace has both within
// milliseconds: the first pod in it waits for them.
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Names that pods and client libraries know.
const (
	DefaultName   = "default"
	RootCAName    = "kube-root-ca.crt"
	rootCAKey     = "ca.crt"
	rootCANote    = "kubernetes.io/description"
	rootCANoteFor = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// LegacyIssuer signs tokens that live in Secrets.
type LegacyIssuer interface {
	Legacy(account *corev1.ServiceAccount, secretName string) (string, error)
}

// Config of the controller.
type Config struct {
	// Informers' identity must see namespaces, service accounts, ConfigMaps and Secrets.
	Client *client.Set
	// RootCA is the PEM bundle with which pods verify the API server.
	RootCA []byte
	// Tokens fills service-account token Secrets. Nil: they are left empty.
	Tokens LegacyIssuer
	Log    *slog.Logger
	// Ready is called when every namespace that was there at start is complete. May be nil.
	Ready func()
}

const workers = 4

type controller struct {
	Config
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	configMaps corelisters.ConfigMapLister
	secrets    corelisters.SecretLister
	loop       *client.Loop // keys are namespaces, and namespace/secret for token Secrets

	mu     sync.Mutex      // guards legacy
	legacy map[string]bool // namespaces in which a token Secret was seen: elsewhere an account's event costs nothing
}

// Run works until ctx ends and returns when its goroutines have ended.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	core := c.Client.Informers.Core().V1()
	x := &controller{
		Config:     c,
		namespaces: core.Namespaces().Lister(),
		accounts:   core.ServiceAccounts().Lister(),
		configMaps: core.ConfigMaps().Lister(),
		secrets:    core.Secrets().Lister(),
		legacy:     map[string]bool{},
	}
	x.loop = client.NewLoop("serviceaccount", workers, c.Log, x.reconcile)
	var handlers client.Handlers
	defer handlers.Remove()
	for _, s := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{core.Namespaces().Informer(), client.Each(x.onNamespace)},
		// What somebody takes away or changes comes back.
		{core.ServiceAccounts().Informer(), client.Each(x.onAccount)},
		{core.ConfigMaps().Informer(), client.Each(x.onConfigMap)},
		{core.Secrets().Informer(), client.Each(x.onSecret)},
	} {
		if err := handlers.On(s.informer, s.handler); err != nil {
			return fmt.Errorf("service account controller: %w", err)
		}
	}
	if !handlers.Sync(ctx, c.Client) {
		return nil
	}
	if err := x.first(ctx); err != nil && ctx.Err() == nil {
		c.Log.Warn("service accounts of the first namespaces", "error", err) // the loop tries again
	}
	if c.Ready != nil {
		c.Ready()
	}
	x.loop.Run(ctx)
	return nil
}

// first completes the namespaces that are there at start, before Ready.
func (x *controller) first(ctx context.Context) error {
	all, err := x.namespaces.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, namespace := range all {
		if err := x.complete(ctx, namespace.Name); err != nil {
			return err
		}
	}
	return nil
}

func (x *controller) onNamespace(namespace *corev1.Namespace) {
	if namespace.Status.Phase != corev1.NamespaceTerminating {
		x.loop.Add(namespace.Name)
	}
}

func (x *controller) onAccount(account *corev1.ServiceAccount) {
	if account.Name == DefaultName {
		x.loop.Add(account.Namespace)
	}
	x.mu.Lock()
	legacy := x.legacy[account.Namespace]
	x.mu.Unlock()
	if !legacy {
		return
	}
	// Secrets of a new account are to be filled, those of one that is gone are to go.
	secrets, err := x.secrets.Secrets(account.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, secret := range secrets {
		if secret.Type == corev1.SecretTypeServiceAccountToken && secret.Annotations[corev1.ServiceAccountNameKey] == account.Name {
			x.loop.Add(secret.Namespace + "/" + secret.Name)
		}
	}
}

func (x *controller) onConfigMap(m *corev1.ConfigMap) {
	if m.Name == RootCAName {
		x.loop.Add(m.Namespace)
	}
}

func (x *controller) onSecret(s *corev1.Secret) {
	if s.Type != corev1.SecretTypeServiceAccountToken {
		return
	}
	x.mu.Lock()
	x.legacy[s.Namespace] = true
	x.mu.Unlock()
	x.loop.Add(s.Namespace + "/" + s.Name)
}

func (x *controller) reconcile(ctx context.Context, key string) error {
	if namespace, secret, ok := strings.Cut(key, "/"); ok {
		return x.fill(ctx, namespace, secret)
	}
	return x.complete(ctx, key)
}

// complete gives a namespace its default account and its root CA.
func (x *controller) complete(ctx context.Context, name string) error {
	namespace, err := x.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && namespace.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := x.accounts.ServiceAccounts(name).Get(DefaultName); apierrors.IsNotFound(err) {
		_, err := x.Client.Kubernetes.CoreV1().ServiceAccounts(name).Create(ctx,
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: DefaultName}}, metav1.CreateOptions{})
		if err != nil && !settled(err) {
			return fmt.Errorf("create service account %s/%s: %w", name, DefaultName, err)
		}
	} else if err != nil {
		return err
	}
	return x.publish(ctx, name)
}

// settled: it is there already, or the namespace is going or gone.
func settled(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err)
}

func (x *controller) publish(ctx context.Context, namespace string) error {
	configMaps := x.Client.Kubernetes.CoreV1().ConfigMaps(namespace)
	have, err := x.configMaps.ConfigMaps(namespace).Get(RootCAName)
	if apierrors.IsNotFound(err) {
		_, err := configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: RootCAName, Annotations: map[string]string{rootCANote: rootCANoteFor}},
			Data:       map[string]string{rootCAKey: string(x.RootCA)},
		}, metav1.CreateOptions{})
		if err != nil && !settled(err) {
			return fmt.Errorf("create ConfigMap %s/%s: %w", namespace, RootCAName, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(have.Data) == 1 && have.Data[rootCAKey] == string(x.RootCA) && len(have.Annotations[rootCANote]) > 0 {
		return nil
	}
	want := have.DeepCopy()
	want.Data = map[string]string{rootCAKey: string(x.RootCA)}
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	want.Annotations[rootCANote] = rootCANoteFor
	if _, err := configMaps.Update(ctx, want, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update ConfigMap %s/%s: %w", namespace, RootCAName, err)
	}
	return nil
}

// fill puts token, authority and namespace into a service-account token Secret, or removes it when its account is gone.
func (x *controller) fill(ctx context.Context, namespace, name string) error {
	secret, err := x.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil {
		return nil
	}
	secrets := x.Client.Kubernetes.CoreV1().Secrets(namespace)
	accountName, uid := secret.Annotations[corev1.ServiceAccountNameKey], secret.Annotations[corev1.ServiceAccountUIDKey]
	account, err := x.accounts.ServiceAccounts(namespace).Get(accountName)
	if err == nil && uid != "" && uid != string(account.UID) || apierrors.IsNotFound(err) {
		// The cache may be behind the Secret: only the store's word removes it.
		account, err = x.Client.Kubernetes.CoreV1().ServiceAccounts(namespace).Get(ctx, accountName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && uid != "" && uid != string(account.UID) {
			err := secrets.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("delete token secret of missing account %s/%s: %w", namespace, accountName, err)
			}
			return nil
		}
	}
	if err != nil {
		return err
	}
	full := uid != "" && len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 &&
		string(secret.Data[corev1.ServiceAccountRootCAKey]) == string(x.RootCA) && string(secret.Data[corev1.ServiceAccountNamespaceKey]) == namespace
	if full || x.Tokens == nil {
		return nil
	}
	want := secret.DeepCopy()
	if want.Data == nil {
		want.Data = map[string][]byte{}
	}
	want.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	want.Data[corev1.ServiceAccountRootCAKey] = x.RootCA
	want.Data[corev1.ServiceAccountNamespaceKey] = []byte(namespace)
	if len(want.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := x.Tokens.Legacy(account, name)
		if err != nil {
			return fmt.Errorf("sign token of secret %s/%s: %w", namespace, name, err)
		}
		want.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if _, err := secrets.Update(ctx, want, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("fill token secret %s/%s: %w", namespace, name, err)
	}
	return nil
}
