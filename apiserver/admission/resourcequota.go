package admission

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"

	apiquota "wherry.dev/wherry/api/quota"
)

// resourceQuota charges what objects use to the quotas of their namespace, and refuses what none has room for. The charge is written into the
// quota's status before the object is stored, under the lock of its resourceVersion, so that no two servers can give away the same room; what was
// charged and then not stored, and what is deleted, the controller gives back.
type resourceQuota struct {
	cluster    *cluster
	evaluators map[schema.GroupResource]quota.Evaluator

	mu         sync.Mutex // guards namespaces
	namespaces map[string]*ledger
}

// ledger is the charging of one namespace, one request at a time.
type ledger struct {
	users   int // guarded by resourceQuota.mu
	mu      sync.Mutex
	charged map[string]*corev1.ResourceQuota // guarded by mu; by name, as we wrote them last: the cache may be behind
}

// chargeAttempts bounds how often a charge is tried anew when others write the quota meanwhile.
const chargeAttempts = 5

func newResourceQuota(c *cluster, now func() time.Time) *resourceQuota {
	p := &resourceQuota{cluster: c, evaluators: map[schema.GroupResource]quota.Evaluator{}, namespaces: map[string]*ledger{}}
	for _, e := range apiquota.Evaluators(nil, now) {
		p.evaluators[e.GroupResource()] = e
	}
	return p
}

func (*resourceQuota) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Validate implements admission.ValidationInterface.
func (p *resourceQuota) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	group := a.GetResource().GroupResource()
	if a.GetNamespace() == "" || group == (schema.GroupResource{Resource: "namespaces"}) || isUncharged(group) {
		return nil
	}
	e := p.evaluators[group]
	if e == nil {
		e = apiquota.Count(nil, a.GetResource())
	}
	if !e.Handles(a) {
		return nil
	}
	cached, err := p.cluster.resourceQuotas(ctx, a.GetNamespace())
	if err != nil || len(cached) == 0 {
		return err
	}
	own, leave := p.enter(a.GetNamespace())
	defer leave()
	quotas := own.latest(cached)
	for range chargeAttempts {
		var again []corev1.ResourceQuota
		again, err = p.charge(ctx, a, e, own, quotas)
		if err != nil || len(again) == 0 {
			return err
		}
		quotas = again
	}
	return apierrors.NewConflict(corev1.Resource("resourcequotas"), quotas[0].Name, fmt.Errorf("the quota is being changed by others; try again"))
}

// charge charges all quotas, and returns those that were changed meanwhile as they are now.
func (p *resourceQuota) charge(ctx context.Context, a admission.Attributes, e quota.Evaluator, own *ledger, quotas []corev1.ResourceQuota) (again []corev1.ResourceQuota, err error) {
	charged, err := resourcequota.CheckRequest(quotas, a, e, nil)
	if err != nil || a.IsDryRun() {
		return nil, err
	}
	s, err := p.cluster.ready()
	if err != nil {
		return nil, err
	}
	live := s.live.CoreV1().ResourceQuotas(a.GetNamespace())
	for i := range charged {
		if equality.Semantic.DeepEqual(charged[i].Status.Used, quotas[i].Status.Used) {
			continue
		}
		written, err := live.UpdateStatus(ctx, &charged[i], metav1.UpdateOptions{})
		switch {
		case err == nil:
			own.charged[written.Name] = written
		case apierrors.IsConflict(err):
			fresh, err := live.Get(ctx, charged[i].Name, metav1.GetOptions{})
			if err == nil {
				again = append(again, *fresh)
			} else if !apierrors.IsNotFound(err) {
				return nil, err
			}
		case !apierrors.IsNotFound(err): // a quota that is gone limits nothing
			return nil, err
		}
	}
	return again, nil
}

// enter waits for the namespace's turn; leave must be called.
func (p *resourceQuota) enter(namespace string) (own *ledger, leave func()) {
	p.mu.Lock()
	if own = p.namespaces[namespace]; own == nil {
		own = &ledger{charged: map[string]*corev1.ResourceQuota{}}
		p.namespaces[namespace] = own
	}
	own.users++
	p.mu.Unlock()
	own.mu.Lock()
	return own, func() {
		forget := len(own.charged) == 0
		own.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		if own.users--; own.users == 0 && forget {
			delete(p.namespaces, namespace)
		}
	}
}

// latest returns copies of the quotas, in our own last writing where the cache has not seen it yet. Callers hold mu.
func (c *ledger) latest(cached []*corev1.ResourceQuota) []corev1.ResourceQuota {
	quotas, known := make([]corev1.ResourceQuota, 0, len(cached)), make(map[string]bool, len(cached))
	for _, q := range cached {
		known[q.Name] = true
		if ours := c.charged[q.Name]; ours != nil {
			if ours.UID == q.UID && revision(ours) > revision(q) {
				q = ours
			} else {
				delete(c.charged, q.Name)
			}
		}
		quotas = append(quotas, *q.DeepCopy())
	}
	for name := range c.charged {
		if !known[name] {
			delete(c.charged, name)
		}
	}
	return quotas
}

func revision(q *corev1.ResourceQuota) uint64 {
	n, _ := strconv.ParseUint(q.ResourceVersion, 10, 64) // ours are etcd's revisions
	return n
}

// isUncharged reports whether objects of a resource are no one's to count: they are not stored, or not for long.
func isUncharged(r schema.GroupResource) bool {
	switch r.Group {
	case "authentication.k8s.io", "authorization.k8s.io", "events.k8s.io":
		return true
	}
	return r.Group == "" && (r.Resource == "bindings" || r.Resource == "events")
}
