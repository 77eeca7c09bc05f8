package admission

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// namespaceLifecycle refuses what would live in a namespace that is not there, and new content in one that is being
// deleted; and it protects the namespaces that the system cannot do without.
type namespaceLifecycle struct {
	cluster *cluster
	now     func() time.Time

	mu      sync.Mutex           // guards deleted
	deleted map[string]time.Time // namespaces whose deletion passed here a moment ago; the cache may not know yet
}

// liveAfterDelete is how long a deleted namespace is looked up in the store instead of the cache.
const liveAfterDelete = 30 * time.Second

func newNamespaceLifecycle(c *cluster, now func() time.Time) *namespaceLifecycle {
	return &namespaceLifecycle{cluster: c, now: now, deleted: map[string]time.Time{}}
}

func (*namespaceLifecycle) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update, admission.Delete)
}

// Admit implements admission.MutationInterface: it comes before validation, so that a missing namespace is what one is told first.
func (p *namespaceLifecycle) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	isNamespace := a.GetKind().GroupKind() == corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind()
	if a.GetOperation() == admission.Delete && isNamespace {
		switch a.GetName() {
		case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
			return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), fmt.Errorf("this namespace may not be deleted"))
		}
	}
	if isNamespace {
		if a.GetOperation() == admission.Delete {
			p.noteDeletion(a.GetName())
		}
		return nil
	}
	namespace := a.GetNamespace()
	switch {
	case namespace == "":
		return nil
	case a.GetOperation() == admission.Delete:
		return nil // what is there may always go
	case a.GetResource().Group == "authorization.k8s.io" && a.GetResource().Resource == "localsubjectaccessreviews":
		return nil // stores nothing
	}
	var object *corev1.Namespace
	var err error
	if p.deletedLately(namespace) {
		s, notReady := p.cluster.ready()
		if notReady != nil {
			return notReady
		}
		object, err = s.live.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	} else {
		object, err = p.cluster.namespace(ctx, namespace)
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsServiceUnavailable(err):
		return err
	case err != nil:
		return apierrors.NewInternalError(err)
	}
	if a.GetOperation() != admission.Create || object.Status.Phase != corev1.NamespaceTerminating {
		return nil
	}
	refused := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	if status, ok := refused.(*apierrors.StatusError); ok {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", namespace),
			Field:   "metadata.namespace",
		})
	}
	return refused
}

func (p *namespaceLifecycle) noteDeletion(name string) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for other, until := range p.deleted {
		if now.After(until) {
			delete(p.deleted, other)
		}
	}
	p.deleted[name] = now.Add(liveAfterDelete)
}

func (p *namespaceLifecycle) deletedLately(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.deleted[name]
	return ok && !p.now().After(until)
}
