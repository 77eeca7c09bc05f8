// Package aggregate serves groups and versions through other API servers, as APIServices name them, and keeps an APIService for each
// group and version of our own. It watches APIServices; for those of other servers it finds out whether they answer, what they serve
// and how that is described, and hands the API server a handler for each. Nothing of it runs, and no request passes through it, while
// every APIService is local. Only apiserver imports it.
package aggregate

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/apiserver/discovery"
	"wherry.dev/wherry/client"
)

// Foreign is a group and version that another server serves. Immutable once it is handed over.
type Foreign struct {
	discovery.Foreign
	// Handler answers every request below the group and version's path, discovery in the old form included, after its sender has been
	// authenticated and authorized; the request's context carries the user, the request info and, for what is no watch or
	// stream, a deadline. Safe for concurrent use.
	Handler http.Handler
	// OpenAPI tells how the group and version is described. Nil: it is not.
	OpenAPI *Description
}

// Server is the API server in front of the others.
type Server interface {
	// Kinds are those which it serves itself.
	Kinds() []*kinds.Kind
	// SetForeign hands requests to list, in place of what was set before.
	SetForeign(list []Foreign)
	// SetPriorities says where its own groups and versions stand in discovery, in place of what was set before; others stand where upstream has them.
	SetPriorities(order map[schema.GroupVersion]discovery.Priority)
}

// Config is what New needs.
type Config struct {
	Server Server
	// Client writes APIServices.
	Client *client.Set
	// APIServices, Services and EndpointSlices are listed and watched; the latter two only while an APIService names another server.
	APIServices, Services, EndpointSlices cache.ListerWatcher
	// Certificate is what other servers know us by: of an authority of front proxies. Nil: none is shown, and they trust no header.
	Certificate func() (*tls.Certificate, error)
	// Dial connects to other servers. Nil: by net.Dialer.
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Registry prometheus.Registerer // nil: metrics are kept but not registered
	Log      *slog.Logger
}

// resource is where APIServices are.
var resource = apiregistrationv1.SchemeGroupVersion.WithResource("apiservices")

// workers is how many other servers are asked at once, and upstream's number.
const workers = 5

// Aggregator does the package's work. Safe for concurrent use.
type Aggregator struct {
	Config
	rest     rest.Interface
	informer cache.SharedIndexInformer
	loop     *client.Loop
	metrics  *metrics
	context  context.Context // Run's

	mu      sync.Mutex
	wanted  map[string]*apiregistrationv1.APIService   // guarded by mu; local ones, by name, as they should be
	started bool                                       // guarded by mu; the informer has what there is
	order   map[schema.GroupVersion]discovery.Priority // guarded by mu; what administrators have made of the priorities of local ones
	synced  map[string]bool                            // guarded by mu; names that were put right once
	atStart map[string]bool                            // set before the loop runs; names that were there at the start
	remotes map[string]*remote                         // guarded by mu; by name of the APIService
	network *network                                   // guarded by mu; nil while there are no remotes
}

// New prepares an Aggregator. KindsChanged may be called from now on.
func New(c Config) (*Aggregator, error) {
	config := rest.CopyConfig(c.Client.Config)
	config.APIPath, config.GroupVersion = "/apis", &apiregistrationv1.SchemeGroupVersion
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client1, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("client of APIServices: %w", err)
	}
	a := &Aggregator{Config: c, rest: client1, metrics: newMetrics(c.Registry), synced: map[string]bool{}, atStart: map[string]bool{}, remotes: map[string]*remote{}}
	a.loop = client.NewLoop("aggregation", workers, c.Log, a.sync)
	a.informer = cache.NewSharedIndexInformer(c.APIServices, &apiregistrationv1.APIService{}, 0, cache.Indexers{})
	changed := func(obj any) {
		if key, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			a.loop.Add(key.Name)
		}
	}
	if _, err := a.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, DeleteFunc: changed,
		UpdateFunc: func(_, obj any) { changed(obj) }}); err != nil {
		return nil, fmt.Errorf("watch APIServices: %w", err)
	}
	return a, nil
}

// Run keeps APIServices and what they name until ctx ends; ready, if not nil, is called when those of other servers that were there at the
// start are handed over.
func (a *Aggregator) Run(ctx context.Context, ready func()) {
	a.context = ctx
	var informing sync.WaitGroup
	informing.Go(func() { a.informer.RunWithContext(ctx) })
	defer informing.Wait()
	defer a.stopNetwork()
	if cache.WaitFor(ctx, "", a.informer.HasSyncedChecker()) {
		for _, obj := range a.informer.GetStore().List() {
			s := obj.(*apiregistrationv1.APIService)
			a.atStart[s.Name] = true
			if s.Spec.Service != nil {
				a.keepRemote(s) // before the first request, as upstream
			}
		}
		a.publish()
		a.mu.Lock()
		a.started = true
		a.mu.Unlock()
		a.KindsChanged()
		if ready != nil {
			ready()
		}
	}
	a.loop.Run(ctx)
}

// KindsChanged says that the server serves other kinds. It never blocks for long.
func (a *Aggregator) KindsChanged() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.started {
		return
	}
	wanted := localServices(a.Server.Kinds()) // under mu, so that the newest comes last
	for name, s := range wanted {
		if was := a.wanted[name]; was == nil || !apiequality.Semantic.DeepEqual(was, s) {
			a.loop.Add(name)
		}
	}
	for name := range a.wanted {
		if wanted[name] == nil {
			a.loop.Add(name)
		}
	}
	if a.wanted == nil { // the first time: those which nobody wants any more, too
		for _, name := range a.informer.GetStore().ListKeys() {
			a.loop.Add(name)
		}
	}
	a.wanted = wanted
}

// stored returns an APIService as the informer has it, nil when it is not there.
func (a *Aggregator) stored(name string) *apiregistrationv1.APIService {
	obj, ok, err := a.informer.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil
	}
	return obj.(*apiregistrationv1.APIService)
}

func (a *Aggregator) sync(ctx context.Context, name string) error {
	s := a.stored(name)
	if err := a.register(ctx, name, s); err != nil {
		return err
	}
	a.reorder(name, s)
	switch {
	case s == nil:
		a.dropRemote(name)
		a.metrics.forget(name)
		return nil
	case s.Spec.Service == nil:
		a.dropRemote(name)
		return a.condition(ctx, s, helper.NewLocalAvailableAPIServiceCondition())
	}
	r, changed := a.keepRemote(s)
	if changed {
		a.publish()
	}
	c := a.check(ctx, r)
	if ctx.Err() != nil {
		return nil // what was found is that we are about to end
	}
	answers := c.Status == apiregistrationv1.ConditionTrue
	if a.judged(r, answers) {
		a.publish() // before anybody is told so
	}
	if err := a.condition(ctx, s, c); err != nil {
		return err
	}
	if a.discover(ctx, r, answers) {
		a.publish()
	}
	a.loop.AddAfter(name, r.due(time.Now()))
	return nil
}

// judged notes whether a remote answers, and returns whether that is new.
func (a *Aggregator) judged(r *remote, answers bool) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed = r.available != answers
	r.available = answers
	return changed
}

// condition writes the condition of s, if it is another than s has.
func (a *Aggregator) condition(ctx context.Context, s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) error {
	next := s.DeepCopy()
	helper.SetAPIServiceCondition(next, c)
	was, is := available(s), available(next)
	a.metrics.set(s.Name, is)
	if apiequality.Semantic.DeepEqual(s.Status, next.Status) {
		return nil
	}
	err := a.rest.Put().Resource(resource.Resource).Name(s.Name).SubResource("status").Body(next).Do(ctx).Error()
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // the informer will tell
		return nil
	case err != nil:
		return fmt.Errorf("write status of APIService %s: %w", s.Name, err)
	}
	if was && !is {
		a.metrics.lost(s.Name, c.Reason)
	}
	a.Log.Debug("an APIService's availability changed", "apiservice", s.Name, "available", string(c.Status), "reason", c.Reason, "message", c.Message)
	return nil
}

// publish hands the server what there is now.
func (a *Aggregator) publish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]Foreign, 0, len(a.remotes))
	for _, r := range a.remotes {
		list = append(list, r.foreign())
	}
	slices.SortFunc(list, func(x, y Foreign) int { return compareVersions(x.GroupVersion, y.GroupVersion) })
	a.Server.SetForeign(list) // under mu, so that the newest comes last
}

func compareVersions(a, b schema.GroupVersion) int {
	switch x, y := a.String(), b.String(); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func available(s *apiregistrationv1.APIService) bool {
	return helper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available)
}

// keepRemote returns what is kept of an APIService that names another server, and whether that is new to the server in front.
func (a *Aggregator) keepRemote(s *apiregistrationv1.APIService) (r *remote, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.network == nil {
		a.network = startNetwork(a.context, a.Services, a.EndpointSlices, a.serviceChanged)
	}
	r = a.remotes[s.Name]
	if r == nil {
		r = &remote{name: s.Name, aggregator: a}
		a.remotes[s.Name] = r
		changed = true
	}
	return r, r.update(s, a.network) || changed
}

func (a *Aggregator) dropRemote(name string) {
	a.mu.Lock()
	r := a.remotes[name]
	delete(a.remotes, name)
	last := len(a.remotes) == 0
	a.mu.Unlock()
	if r == nil {
		return
	}
	r.close()
	a.publish()
	if last {
		a.stopNetwork()
	}
}

// stopNetwork ends the watches of Services and their endpoints, if no APIService needs them.
func (a *Aggregator) stopNetwork() {
	a.mu.Lock()
	n := a.network
	if n == nil || len(a.remotes) > 0 && a.context.Err() == nil {
		a.mu.Unlock()
		return
	}
	a.network = nil
	a.mu.Unlock()
	n.stop()
}

// serviceChanged looks again at the APIServices behind a Service.
func (a *Aggregator) serviceChanged(namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.remotes {
		if r.service.Namespace == namespace && r.service.Name == name {
			a.loop.Add(r.name)
		}
	}
}

// deleteOptions deletes s only as it is known here.
func deleteOptions(s *apiregistrationv1.APIService) *metav1.DeleteOptions {
	return &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))}
}
