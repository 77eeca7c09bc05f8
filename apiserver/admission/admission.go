// Package admission changes and checks what is to be stored (C4): one plugin a file, in upstream's order, on the
// interfaces of k8s.io/apiserver. The API server imports it.
//
// Plugins are built before the API server can serve itself. Until Initialize those that need to read the cluster refuse
// with 503; single objects are then looked up in the informers' caches and, when they are not there yet, live, so that
// an object made a millisecond ago counts.
package admission

import (
	"context"
	"fmt"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/client"
)

// Config of the plugins.
type Config struct {
	// Authorizer answers plugins that ask for a permission of their own (approve, sign, bind, escalate).
	Authorizer authorizer.UnconditionalAuthorizer
	// Rules resolves RBAC rules for the escalation check.
	Rules Rules
	// Served says whether a resource is served; plugins for kinds that are not stay silent. Nil: what the first version serves.
	Served func(schema.GroupVersionResource) bool
	// Disable and Enable name plugins to leave out, and those to add that are off by default (ExtendedResourceToleration, AlwaysPullImages).
	Disable, Enable []string
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Rules is what the escalation check needs to know of RBAC.
type Rules interface {
	// Rules returns what counts for who in namespace.
	Rules(ctx context.Context, who user.Info, namespace string) ([]rbacv1.PolicyRule, error)
	// RoleRules returns the rules of a Role (namespace set) or ClusterRole.
	RoleRules(ctx context.Context, namespace, name string) ([]rbacv1.PolicyRule, bool, error)
}

// Chain is the list of plugins, in order. Safe for concurrent use.
type Chain struct {
	cluster *cluster
	plugins []admission.Interface
	names   []string // of each
}

// New returns the enabled plugins, not initialized yet.
func New(c Config) (*Chain, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	cl := newCluster(c.Served)
	podSecurity, err := newPodSecurity(cl)
	if err != nil {
		return nil, err
	}
	chain := &Chain{cluster: cl}
	for _, p := range []struct {
		name   string
		off    bool
		plugin admission.Interface
	}{
		{"NamespaceLifecycle", false, newNamespaceLifecycle(cl, c.Now)},
		{"LimitRanger", !cl.serves(limitRanges), &limitRanger{cl}},
		{"ServiceAccount", false, &serviceAccount{cl}},
		{"NodeRestriction", false, &nodeRestriction{cl}},
		{"TaintNodesByCondition", false, taintNodes{}},
		{"AlwaysPullImages", true, alwaysPull{}},
		{"PodSecurity", false, podSecurity},
		{"Priority", false, &priority{cl}},
		{"DefaultTolerationSeconds", false, defaultTolerations{}},
		{"ExtendedResourceToleration", true, extendedResources{}},
		{"DefaultStorageClass", !cl.serves(storageClasses), &defaultStorageClass{cl}},
		{"StorageObjectInUseProtection", false, storageProtection{}},
		{"PersistentVolumeClaimResize", !cl.serves(storageClasses), &claimResize{cl}},
		{"RuntimeClass", false, &runtimeClass{cl}},
		{"CertificateApproval", c.Authorizer == nil, &certificateApproval{c.Authorizer}},
		{"CertificateSigning", c.Authorizer == nil, &certificateSigning{c.Authorizer}},
		{"ClusterTrustBundleAttest", c.Authorizer == nil, &trustBundleAttest{c.Authorizer}},
		{"CertificateSubjectRestriction", false, certificateSubject{}},
		{"DefaultIngressClass", !cl.serves(ingressClasses), &defaultIngressClass{cl}},
		{"PodTopologyLabels", false, &topologyLabels{cl}},
		{"MutatingAdmissionPolicy", c.Authorizer == nil, newMutatingPolicies(c.Authorizer)},
		{"MutatingAdmissionWebhook", c.Authorizer == nil, newMutatingWebhooks(c.Authorizer)},
		{"ValidatingAdmissionPolicy", c.Authorizer == nil, newValidatingPolicies(c.Authorizer)},
		{"ValidatingAdmissionWebhook", c.Authorizer == nil, newValidatingWebhooks(c.Authorizer)},
		{"PodCertificateSigning", c.Authorizer == nil, &podCertificateSigning{c.Authorizer}}, // where the status is validated
		// Upstream checks escalation where roles are stored, after validation; as the last plugin it comes at the same point.
		{"RBACEscalation", c.Authorizer == nil || c.Rules == nil, &escalation{c.Authorizer, c.Rules}},
		// The last of all: what is charged shall not be refused afterwards.
		{"ResourceQuota", !cl.serves(resourceQuotas), newResourceQuota(cl, c.Now)},
	} {
		if slices.Contains(c.Disable, p.name) || p.off && !slices.Contains(c.Enable, p.name) {
			continue
		}
		chain.plugins, chain.names = append(chain.plugins, p.plugin), append(chain.names, p.name)
	}
	return chain, nil
}

// Plugins returns the plugins in order. The caller owns the slice.
func (c *Chain) Plugins() []admission.Interface { return slices.Clone(c.plugins) }

// Names returns what the plugins are called, in the same order. The caller owns the slice.
func (c *Chain) Names() []string { return slices.Clone(c.names) }

// Initialize gives the plugins an in-process client, whose identity must be in system:masters, and registers with its
// informers, which the caller starts afterwards. What the plugins run by themselves ends with ctx.
func (c *Chain) Initialize(ctx context.Context, set *client.Set) error {
	if err := c.cluster.initialize(set); err != nil {
		return fmt.Errorf("initialize admission: %w", err)
	}
	for _, p := range c.plugins {
		if h, ok := p.(interface {
			initialize(context.Context, *client.Set) error
		}); ok {
			if err := h.initialize(ctx, set); err != nil {
				return fmt.Errorf("initialize admission: %w", err)
			}
		}
	}
	return nil
}

// on is embedded by plugins that handle some operations only.
func handles(operation admission.Operation, handled ...admission.Operation) bool {
	return slices.Contains(handled, operation)
}
