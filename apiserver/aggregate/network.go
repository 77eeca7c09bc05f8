package aggregate

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apiserver/pkg/util/proxy"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// network knows Services and where they lead, while an APIService needs it.
type network struct {
	services corelisters.ServiceLister
	slices   cache.Indexer
	synced   []cache.DoneChecker
	context  context.Context // ends with the network
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// byService finds the EndpointSlices of a Service.
const byService = "service"

// startNetwork watches Services and EndpointSlices until the network is stopped; changed is called for each Service that changes, or
// whose endpoints do.
func startNetwork(ctx context.Context, services, slices cache.ListerWatcher, changed func(namespace, name string)) *network {
	ctx, cancel := context.WithCancel(ctx)
	s := cache.NewSharedIndexInformer(services, &corev1.Service{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	e := cache.NewSharedIndexInformer(slices, &discoveryv1.EndpointSlice{}, 0, cache.Indexers{byService: func(obj any) ([]string, error) {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelServiceName] != "" {
			return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
		}
		return nil, nil
	}})
	n := &network{services: corelisters.NewServiceLister(s.GetIndexer()), slices: e.GetIndexer(), context: ctx, cancel: cancel,
		synced: []cache.DoneChecker{s.HasSyncedChecker(), e.HasSyncedChecker()}}
	tell := func(obj any) {
		if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = unknown.Obj
		}
		switch o := obj.(type) {
		case *corev1.Service:
			changed(o.Namespace, o.Name)
		case *discoveryv1.EndpointSlice:
			if name := o.Labels[discoveryv1.LabelServiceName]; name != "" {
				changed(o.Namespace, name)
			}
		}
	}
	for _, informer := range []cache.SharedIndexInformer{s, e} {
		// It fails only for informers that have ended.
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: tell})
		n.running.Go(func() { informer.RunWithContext(ctx) })
	}
	return n
}

// stop ends the watches. What was known stays known to requests that have begun.
func (n *network) stop() {
	n.cancel()
	n.running.Wait()
}

// wait returns when what there was at the start is known, or the network has been stopped.
func (n *network) wait() { cache.WaitFor(n.context, "", n.synced...) }

// GetEndpointSlices implements proxy.EndpointSliceGetter. The slice is the caller's, the objects are shared.
func (n *network) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	found, err := n.slices.ByIndex(byService, namespace+"/"+service)
	if err != nil {
		return nil, fmt.Errorf("find endpoints of service %s/%s: %w", namespace, service, err)
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, obj := range found {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// resolve returns the address of a server behind a Service: of one of its ready endpoints, so that this process needs no node's
// proxy beside it; of a Service that is a name for something else, that name.
func (n *network) resolve(s apiregistrationv1.ServiceReference) (*url.URL, error) {
	svc, err := n.services.Services(s.Namespace).Get(s.Name)
	if err != nil {
		return nil, err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(*s.Port)))}, nil
	}
	return proxy.ResolveEndpoint(n.services, n, s.Namespace, s.Name, *s.Port)
}
