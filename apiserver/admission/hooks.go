package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// hooks is a plugin of k8s.io/apiserver whose rules are objects: webhooks, policies. It is made when the first of them
// appears, because making it takes milliseconds and megabytes (CEL environments); a request to a cluster that has none pays
// for a look at a counter. Once made it stays.
type hooks struct {
	authorizer authorizer.UnconditionalAuthorizer
	// watched returns the informer of the objects that give the plugin work.
	watched func(informers.SharedInformerFactory) cache.SharedIndexInformer
	fresh   func() (admission.Interface, error)
	// schemas says that the plugin works by the schemas that the server publishes.
	schemas bool

	synced atomic.Pointer[cache.DoneChecker] // done when count is right
	count  atomic.Int64
	built  atomic.Pointer[builtHooks] // set before count is raised
}

// builtHooks is a plugin, or why there is none. Immutable.
type builtHooks struct {
	mutating   admission.MutationInterface
	validating admission.ValidationInterface
	err        error
	// schemas is closed once the plugin has asked for the list of schemas; nil where it wants none.
	schemas <-chan struct{}
}

// reviewed are the kinds that webhooks and policies never see: asking somebody whether a question may be asked would stop
// the cluster. The same list as upstream's.
var reviewed = []schema.GroupResource{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}, {Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}, {Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}, {Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// Handles implements admission.Interface: all operations.
func (h *hooks) Handles(admission.Operation) bool { return true }

// initialize follows the objects that give the plugin its work. ctx ends with the server.
func (h *hooks) initialize(ctx context.Context, set *client.Set) error {
	registration, err := h.watched(set.Informers).AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) {
			if h.built.Load() == nil {
				h.built.Store(h.build(ctx, set))
			}
			h.count.Add(1)
		},
		DeleteFunc: func(any) { h.count.Add(-1) },
	})
	if err != nil {
		return fmt.Errorf("follow webhooks and policies: %w", err)
	}
	synced := registration.HasSyncedChecker()
	h.synced.Store(&synced)
	return nil
}

// build makes the plugin and gives it what it wants.
func (h *hooks) build(ctx context.Context, set *client.Set) *builtHooks {
	plugin, err := h.fresh()
	if err != nil {
		return &builtHooks{err: err}
	}
	free, err := dynamic.NewForConfig(set.Config)
	if err != nil {
		return &builtHooks{err: fmt.Errorf("make a client for parameters of policies: %w", err)}
	}
	if p, ok := plugin.(initializer.WantsDrainedNotification); ok {
		p.SetDrainedNotification(ctx.Done())
	}
	if p, ok := plugin.(initializer.WantsFeatures); ok {
		p.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	}
	if p, ok := plugin.(initializer.WantsExcludedAdmissionResources); ok {
		p.SetExcludedAdmissionResources(reviewed)
	}
	b := &builtHooks{}
	if p, ok := plugin.(initializer.WantsExternalKubeClientSet); ok {
		c := set.Kubernetes
		if h.schemas {
			c, b.schemas = newSchemaReader(c)
		}
		p.SetExternalKubeClientSet(c)
	}
	if p, ok := plugin.(initializer.WantsDynamicClient); ok {
		p.SetDynamicClient(free)
	}
	if p, ok := plugin.(initializer.WantsExternalKubeInformerFactory); ok {
		p.SetExternalKubeInformerFactory(set.Informers)
	}
	if p, ok := plugin.(initializer.WantsUnconditionalAuthorizer); ok {
		p.SetUnconditionalAuthorizer(h.authorizer)
	}
	if p, ok := plugin.(initializer.WantsRESTMapper); ok {
		p.SetRESTMapper(newKindMapper(set))
	}
	if p, ok := plugin.(webhookinit.WantsServiceResolver); ok {
		p.SetServiceResolver(ServiceResolver(ctx, set.Kubernetes))
	}
	if p, ok := plugin.(webhookinit.WantsAuthenticationInfoResolverWrapper); ok {
		p.SetAuthenticationInfoResolverWrapper(Callers(set.Config))
	}
	if p, ok := plugin.(admission.InitializationValidator); ok {
		if err := p.ValidateInitialization(); err != nil {
			return &builtHooks{err: err}
		}
	}
	set.Informers.Start(ctx.Done()) // what nobody had asked for until now
	b.mutating, _ = plugin.(admission.MutationInterface)
	b.validating, _ = plugin.(admission.ValidationInterface)
	return b
}

// working returns the plugin, nil when it has nothing to do.
func (h *hooks) working(ctx context.Context, a admission.Attributes) (*builtHooks, error) {
	if slices.Contains(reviewed, a.GetResource().GroupResource()) {
		return nil, nil
	}
	synced := h.synced.Load()
	if synced == nil {
		return nil, apierrors.NewServiceUnavailable("not yet ready to handle request: the server has not finished starting")
	}
	if err := await(ctx, *synced); err != nil {
		return nil, err
	}
	if h.count.Load() == 0 {
		return nil, nil
	}
	b := h.built.Load()
	if b.err != nil {
		return nil, apierrors.NewInternalError(b.err)
	}
	if b.schemas != nil {
		select {
		case <-b.schemas:
		case <-ctx.Done():
			return nil, apierrors.NewServiceUnavailable("not yet ready to handle request: the server has not read its schemas yet")
		}
	}
	return b, nil
}

// mutatingHooks is hooks for the first pass.
type mutatingHooks struct{ hooks }

// Admit implements admission.MutationInterface.
func (h *mutatingHooks) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	b, err := h.working(ctx, a)
	if b == nil || b.mutating == nil {
		return err
	}
	return b.mutating.Admit(ctx, a, o)
}

// validatingHooks is hooks for the second pass.
type validatingHooks struct{ hooks }

// Validate implements admission.ValidationInterface.
func (h *validatingHooks) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	b, err := h.working(ctx, a)
	if b == nil || b.validating == nil {
		return err
	}
	return b.validating.Validate(ctx, a, o)
}

// kindMapper finds the resource of a kind by discovery, anew when it does not know it: kinds come while the server runs.
type kindMapper struct {
	*restmapper.DeferredDiscoveryRESTMapper
}

func newKindMapper(set *client.Set) meta.RESTMapper {
	return &kindMapper{restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(set.Kubernetes.Discovery()))}
}

// RESTMapping implements meta.RESTMapper.
func (m *kindMapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	mapping, err := m.DeferredDiscoveryRESTMapper.RESTMapping(kind, versions...)
	var none *meta.NoKindMatchError
	if !errors.As(err, &none) {
		return mapping, err
	}
	m.Reset()
	return m.DeferredDiscoveryRESTMapper.RESTMapping(kind, versions...)
}
