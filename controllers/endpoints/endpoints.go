// Package endpoints keeps the legacy Endpoints object of every Service with a selector, for clients that have not moved to
// EndpointSlices. Upstream's counterpart is the endpoints controller (deprecated since 1.33, and still run).
package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	endpointsliceutil "k8s.io/endpointslice/util"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client *client.Set
	Log    *slog.Logger
}

const (
	// maxAddresses is upstream's limit; what is beyond it is left out, and the annotation says so.
	maxAddresses     = 1000
	overCapacity     = corev1.EndpointsOverCapacity
	managedByLabel   = "endpoints.kubernetes.io/managed-by"
	managedByValue   = "endpoint-controller"
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

type controller struct {
	Config
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	loop      *client.Loop
}

// Run keeps Endpoints until ctx ends.
func Run(ctx context.Context, c Config) error {
	core := c.Client.Informers.Core().V1()
	k := &controller{Config: c, services: core.Services().Lister(), pods: core.Pods().Lister(), endpoints: core.Endpoints().Lister()}
	k.loop = client.NewLoop("endpoints", 3, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		core.Services().Informer(): client.Each(func(s *corev1.Service) { k.loop.Add(s.Namespace + "/" + s.Name) }),
		core.Pods().Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.podChanged(nil, obj) },
			UpdateFunc: func(old, obj any) { k.podChanged(old, obj) },
			DeleteFunc: func(obj any) { k.podChanged(nil, obj) },
		},
		core.Endpoints().Informer(): cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				k.loop.Add(key)
			}
		}},
	} {
		if err := handlers.On(informer, handler); err != nil {
			return err
		}
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

func (k *controller) podChanged(old, obj any) {
	key := endpointsliceutil.GetPodUpdateProjectionKey(old, obj)
	if key == nil {
		return
	}
	services, err := endpointsliceutil.GetServicesToUpdate(k.services, key)
	if err != nil {
		k.Log.Error("find the services of a pod", "error", err)
		return
	}
	for service := range services {
		k.loop.Add(service)
	}
}

func (k *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	service, err := k.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return k.remove(ctx, namespace, name)
	} else if err != nil {
		return err
	}
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // the user's own
	}
	pods, err := k.pods.Pods(namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", key, err)
	}
	wanted, truncated := subsets(service, pods)
	return k.write(ctx, service, wanted, truncated)
}

// remove removes the Endpoints of a Service that is gone, if they were ours.
func (k *controller) remove(ctx context.Context, namespace, name string) error {
	current, err := k.endpoints.Endpoints(namespace).Get(name)
	if err != nil || current.Annotations[leaderAnnotation] != "" {
		return nil // none, or an old leader election lock, which lives under the name of no Service
	}
	err = k.Client.Kubernetes.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove endpoints %s/%s: %w", namespace, name, err)
	}
	return nil
}

func (k *controller) write(ctx context.Context, service *corev1.Service, wanted []corev1.EndpointSubset, truncated bool) error {
	client := k.Client.Kubernetes.CoreV1().Endpoints(service.Namespace)
	current, err := k.endpoints.Endpoints(service.Namespace).Get(service.Name)
	fresh := apierrors.IsNotFound(err)
	if err != nil && !fresh {
		return err
	}
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if !fresh {
		next = current.DeepCopy()
	}
	next.Labels = maps.Clone(service.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	next.Labels[managedByLabel] = managedByValue
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		next.Labels[corev1.IsHeadlessService] = ""
	} else {
		delete(next.Labels, corev1.IsHeadlessService)
	}
	if truncated {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[overCapacity] = "truncated"
	} else {
		delete(next.Annotations, overCapacity)
	}
	next.Subsets = wanted
	if !fresh && equality.Semantic.DeepEqual(current.Subsets, next.Subsets) && maps.Equal(current.Labels, next.Labels) && maps.Equal(current.Annotations, next.Annotations) {
		return nil
	}
	if fresh {
		_, err = client.Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = client.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		if apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("write endpoints %s/%s: %w", service.Namespace, service.Name, err)
	}
	return nil
}
