package resourcequota

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

// patience is how long the first list of a resource may take; its quota is counted again later.
const patience = 10 * time.Second

// discover begins to follow a resource that is not built in (a custom resource, another server's) if it is served now. What counts is how many
// there are, so metadata is enough. Callers hold mu.
func (k *controller) discover(ctx context.Context, r schema.GroupResource) error {
	gvr, err := k.find(r)
	if err != nil || gvr.Empty() {
		return err
	}
	client, err := metadata.NewForConfig(k.Client.Config)
	if err != nil {
		return fmt.Errorf("metadata client: %w", err)
	}
	informer := metadatainformer.NewFilteredMetadataInformer(client, gvr, "", 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil)
	if err := k.handlers.On(informer.Informer(), k.follow()); err != nil {
		return err
	}
	k.listers[r] = informer.Lister()
	k.foreign.Go(func() { informer.Informer().RunWithContext(ctx) })
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !cache.WaitFor(first, "", informer.Informer().HasSyncedChecker()) {
		return fmt.Errorf("list %s: not within %s", gvr, patience)
	}
	return nil
}

// find returns the version in which a resource with namespaces is served, nothing when it is not.
func (k *controller) find(r schema.GroupResource) (schema.GroupVersionResource, error) {
	api := k.Client.Kubernetes.Discovery()
	groups, err := api.ServerGroups()
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("discover groups: %w", err)
	}
	for _, g := range groups.Groups {
		if g.Name != r.Group {
			continue
		}
		for _, v := range g.Versions {
			list, err := api.ServerResourcesForGroupVersion(v.GroupVersion)
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return schema.GroupVersionResource{}, fmt.Errorf("discover %s: %w", v.GroupVersion, err)
			}
			for _, one := range list.APIResources {
				if one.Name == r.Resource && one.Namespaced {
					return r.WithVersion(v.Version), nil
				}
			}
		}
	}
	return schema.GroupVersionResource{}, nil
}
