// Package custom serves what CustomResourceDefinitions define: it watches them, decides about their names, writes their
// conditions as upstream's controllers do, and tells the server which kinds there are. The objects go the way of every other
// object: a version of a definition is a kind like any other, made here from its schema. Only apiserver imports it.
package custom

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
	"wherry.dev/wherry/client"
)

// Server serves kinds; the API server does.
type Server interface {
	Kinds() []*kinds.Kind
	SetKinds(removed []schema.GroupVersionResource, added []*kinds.Kind) error
	// Empty deletes all objects of a kind, which need not be served, without asking admission, and returns how many are still there.
	Empty(ctx context.Context, k *kinds.Kind) (left int, err error)
}

// Config is what Run needs.
type Config struct {
	Server Server
	// Client writes the status of definitions.
	Client *client.Set
	// Definitions lists and watches the definitions.
	Definitions cache.ListerWatcher
	// Services finds conversion webhooks that are Services, and Callers says as whom they are called. Nil: by their cluster DNS names, as nobody.
	Services webhook.ServiceResolver
	Callers  webhook.AuthenticationInfoResolverWrapper
	// Ready, if not nil, is called when every definition that was there at the start is served.
	Ready func()
	Log   *slog.Logger
}

// resource is where definitions are.
var resource = apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions")

// again is how soon a definition that waits for its objects to go is looked at again.
const again = 250 * time.Millisecond

type controller struct {
	Config
	rest       rest.Interface
	informer   cache.SharedIndexInformer
	loop       *client.Loop
	converters *conversion.CRConverterFactory
	own        []*kinds.Kind // built in
	// What follows is the loop's one worker's.
	served map[string]*definition // what the server has, by definition
	seen   map[string]string      // edition of each definition whose schemas have been looked at
	// status is what was written last, until the informer has it: another definition's names are decided on it.
	status map[string]*apiextensionsv1.CustomResourceDefinition
}

// Run serves definitions until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Services == nil {
		c.Services = webhook.NewDefaultServiceResolver()
	}
	if c.Callers == nil {
		c.Callers = webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, nil, nil)
	}
	converters, err := conversion.NewCRConverterFactory(c.Services, c.Callers)
	if err != nil {
		return fmt.Errorf("prepare conversions: %w", err)
	}
	config := rest.CopyConfig(c.Client.Config)
	config.APIPath, config.GroupVersion = "/apis", &apiextensionsv1.SchemeGroupVersion
	config.NegotiatedSerializer, config.UserAgent = scheme.Codecs.WithoutConversion(), "kube-apiserver" // who owns the status, to upstream's clients
	k := &controller{Config: c, converters: converters, served: map[string]*definition{}, seen: map[string]string{}, status: map[string]*apiextensionsv1.CustomResourceDefinition{}}
	for _, own := range c.Server.Kinds() {
		if !own.Custom {
			k.own = append(k.own, own)
		}
	}
	if k.rest, err = rest.RESTClientFor(config); err != nil {
		return fmt.Errorf("client of definitions: %w", err)
	}
	k.informer = cache.NewSharedIndexInformer(c.Definitions, &apiextensionsv1.CustomResourceDefinition{}, 0, cache.Indexers{})
	k.loop = client.NewLoop("custom resources", 1, c.Log, k.sync) // one worker: names are given out one after another
	changed := func(obj any) {
		if key, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			k.loop.Add(key.Name)
		}
	}
	if _, err := k.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, DeleteFunc: changed,
		UpdateFunc: func(_, obj any) { changed(obj) }}); err != nil {
		return fmt.Errorf("watch definitions: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.informer.RunWithContext(ctx)
	}()
	defer func() { <-done }()
	if cache.WaitFor(ctx, "", k.informer.HasSyncedChecker()) {
		k.resume() // before the first request
		if c.Ready != nil {
			c.Ready()
		}
	}
	k.loop.Run(ctx)
	return nil
}

// newest is the definition as the informer has it, or as this controller wrote it if that is newer.
func (k *controller) newest(name string) *apiextensionsv1.CustomResourceDefinition {
	obj, ok, err := k.informer.GetStore().GetByKey(name)
	if err != nil || !ok {
		delete(k.status, name)
		return nil
	}
	d := obj.(*apiextensionsv1.CustomResourceDefinition)
	if w := k.status[name]; w != nil {
		if newer, err := compareVersions(w.ResourceVersion, d.ResourceVersion); err == nil && newer > 0 && w.UID == d.UID {
			return w
		}
		delete(k.status, name)
	}
	return d
}

func (k *controller) sync(ctx context.Context, key string) error {
	d := k.newest(key)
	if d == nil {
		err := k.withdraw(key)
		delete(k.seen, key)
		k.others(key)
		return err
	}
	if d.DeletionTimestamp != nil && slices.Contains(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		return k.finish(ctx, d)
	}
	next := &apiextensionsv1.CustomResourceDefinition{TypeMeta: d.TypeMeta, ObjectMeta: d.ObjectMeta, Spec: d.Spec, Status: *d.Status.DeepCopy()}
	if !named(d) {
		name(next, k.taken(d.Spec.Group))
	}
	approval(next)
	if seen := fmt.Sprintf("%s/%d", d.UID, d.Generation); k.seen[d.Name] != seen {
		nonStructural(next)
		k.seen[d.Name] = seen
	}
	establish(next)
	if condition(next, apiextensionsv1.Established) { // served before anybody is told so
		if err := k.serve(next); err != nil {
			return fmt.Errorf("serve %s: %w", d.Name, err)
		}
	}
	if apiequality.Semantic.DeepEqual(d.Status, next.Status) {
		return k.share(d)
	}
	if err := k.write(ctx, next); err != nil {
		return err
	}
	k.others(key)
	return nil
}

// write stores the status of d, and its finalizers.
func (k *controller) write(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) error {
	out := &apiextensionsv1.CustomResourceDefinition{}
	err := k.rest.Put().Resource(resource.Resource).Name(d.Name).SubResource("status").Body(d).Do(ctx).Into(out)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // the informer will tell
		return nil
	case err != nil:
		return fmt.Errorf("write status of definition %s: %w", d.Name, err)
	}
	k.status[d.Name] = out
	return nil
}

// others looks again at definitions of the same group that did not get their names: one may be free now.
func (k *controller) others(name string) {
	_, group, _ := strings.Cut(name, ".")
	for _, obj := range k.informer.GetStore().List() {
		if d := obj.(*apiextensionsv1.CustomResourceDefinition); d.Spec.Group == group && d.Name != name && !named(d) {
			k.loop.Add(d.Name)
		}
	}
}

// taken are the names that are given out in a group.
func (k *controller) taken(group string) taken {
	var list []*apiextensionsv1.CustomResourceDefinition
	for _, key := range k.informer.GetStore().ListKeys() {
		if _, g, _ := strings.Cut(key, "."); g != group { // a definition's name ends in its group
			continue
		}
		if d := k.newest(key); d != nil {
			list = append(list, d)
		}
	}
	return takenIn(group, list)
}

// resume serves all that is established already, in one step if nothing is wrong with any of it.
func (k *controller) resume() {
	var list []*apiextensionsv1.CustomResourceDefinition
	for _, obj := range k.informer.GetStore().List() {
		if d := obj.(*apiextensionsv1.CustomResourceDefinition); condition(d, apiextensionsv1.Established) {
			list = append(list, d)
			k.seen[d.Name] = fmt.Sprintf("%s/%d", d.UID, d.Generation) // by whoever established it
		}
	}
	if k.serveAll(list...) == nil {
		return
	}
	for _, d := range list {
		if err := k.serve(d); err != nil {
			k.Log.Error("a definition cannot be served", "definition", d.Name, "error", err)
		}
	}
}

// compareVersions orders two resourceVersions.
func compareVersions(a, b string) (int, error) {
	x, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read resourceVersion: %w", err)
	}
	y, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read resourceVersion: %w", err)
	}
	return cmp.Compare(x, y), nil
}
