// Package namespace empties a namespace that is being deleted and then lets it go. Upstream's counterpart is the namespace
// controller.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client *client.Set
	Log    *slog.Logger
}

type controller struct {
	Config
	namespaces corelisters.NamespaceLister
	metadata   metadata.Interface
	loop       *client.Loop
}

// again is how soon a namespace is looked at again whose contents are still terminating: the less often, the longer it has
// taken already. Pods, which take longest as a rule, wake it by going.
func again(since time.Duration) time.Duration { return min(max(since/4, time.Second), 15*time.Second) }

// Run empties namespaces until ctx ends.
func Run(ctx context.Context, c Config) error {
	namespaces := c.Client.Informers.Core().V1().Namespaces()
	meta, err := metadata.NewForConfig(c.Client.Config)
	if err != nil {
		return fmt.Errorf("metadata client: %w", err)
	}
	k := &controller{Config: c, namespaces: namespaces.Lister(), metadata: meta}
	k.loop = client.NewLoop("namespace", 5, c.Log, k.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	if err := handlers.On(c.Client.Informers.Core().V1().Pods().Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		key, err := cache.DeletionHandlingObjectToName(obj)
		if err != nil {
			return
		}
		if n, err := k.namespaces.Get(key.Namespace); err == nil && n.DeletionTimestamp != nil {
			k.loop.Add(n.Name)
		}
	}}); err != nil {
		return err
	}
	if err := handlers.On(namespaces.Informer(), client.Each(func(n *corev1.Namespace) {
		if n.DeletionTimestamp != nil {
			k.loop.Add(n.Name)
		}
	})); err != nil {
		return err
	}
	handlers.Sync(ctx, c.Client) // or ctx has ended, which the loop sees
	k.loop.Run(ctx)
	return nil
}

func (k *controller) sync(ctx context.Context, name string) error {
	namespace, err := k.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && (namespace.DeletionTimestamp == nil || !slices.Contains(namespace.Spec.Finalizers, corev1.FinalizerKubernetes)) {
		return nil
	} else if err != nil {
		return err
	}
	found := k.empty(ctx, name)
	err = errors.Join(found.undiscovered, found.failed)
	if reportErr := k.report(ctx, namespace, found); reportErr != nil {
		return errors.Join(err, reportErr)
	}
	if err != nil {
		return err
	}
	if len(found.left) > 0 {
		k.loop.AddAfter(name, again(time.Since(namespace.DeletionTimestamp.Time)))
		return nil
	}
	// As it is now: somebody may have taken a finalizer of his own away while we were at work.
	done, err := k.Client.Kubernetes.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && done.UID != namespace.UID {
		return nil
	} else if err != nil {
		return fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	done.Spec.Finalizers = slices.DeleteFunc(done.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := k.Client.Kubernetes.CoreV1().Namespaces().Finalize(ctx, done, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	return nil
}

// contents is what a round of emptying found.
type contents struct {
	left         map[schema.GroupVersionResource]int // objects that are still there
	finalizers   map[string]int                      // objects that each finalizer holds
	undiscovered error                               // groups that may hold contents and could not be asked
	failed       error
}

// empty deletes whatever is in the namespace and finds what is still there: pods first, and nothing else before they are gone, so that none runs on
// without what protects or feeds it (KEP-5080).
func (k *controller) empty(ctx context.Context, name string) *contents {
	found := &contents{left: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	lists, err := k.Client.Kubernetes.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		// A group that cannot be discovered (an aggregated server that is away) may hide contents: go on, but do not finish.
		found.undiscovered = fmt.Errorf("discover resources: %w", err)
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if found.failed = k.emptyOf(ctx, name, pods, true, found); found.failed != nil || found.left[pods] > 0 {
		return found
	}
	var errs []error
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists) {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			if err := k.emptyOf(ctx, name, group.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection"), found); err != nil {
				errs = append(errs, err)
			}
		}
	}
	found.failed = errors.Join(errs...)
	return found
}

// emptyOf deletes one resource's objects and notes in found which are still there.
func (k *controller) emptyOf(ctx context.Context, namespace string, resource schema.GroupVersionResource, collection bool, found *contents) error {
	client := k.metadata.Resource(resource).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("list %s in namespace %s: %w", resource.GroupResource(), namespace, err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	found.left[resource] = len(list.Items)
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if collection {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s in namespace %s: %w", resource.GroupResource(), namespace, err)
		}
	} else {
		for i := range list.Items {
			if err := client.Delete(ctx, list.Items[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete %s %s/%s: %w", resource.GroupResource(), namespace, list.Items[i].Name, err)
			}
		}
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("list %s in namespace %s: %w", resource.GroupResource(), namespace, err)
	}
	if len(list.Items) == 0 {
		delete(found.left, resource)
		return nil
	}
	found.left[resource] = len(list.Items)
	for i := range list.Items {
		for _, f := range list.Items[i].Finalizers {
			found.finalizers[f]++
		}
	}
	return nil
}

// report writes the conditions by which upstream says what holds a deletion up.
func (k *controller) report(ctx context.Context, namespace *corev1.Namespace, found *contents) error {
	now := metav1.Now()
	condition := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) corev1.NamespaceCondition {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		return c
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	var remaining, finalizers []string
	for resource, n := range found.left {
		remaining = append(remaining, fmt.Sprintf("%s.%s has %d resource instances", resource.Resource, resource.Group, n))
	}
	for f, n := range found.finalizers {
		finalizers = append(finalizers, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(remaining)
	slices.Sort(finalizers)
	conditions := []corev1.NamespaceCondition{
		condition(corev1.NamespaceDeletionDiscoveryFailure, found.undiscovered != nil, "DiscoveryFailed", "Discovery failed for some groups: "+text(found.undiscovered), "ResourcesDiscovered", "All resources successfully discovered"),
		condition(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		condition(corev1.NamespaceDeletionContentFailure, found.failed != nil, "ContentDeletionFailed", "Failed to delete all resource types, errors: "+text(found.failed), "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		condition(corev1.NamespaceContentRemaining, len(found.left) > 0, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(remaining, ", "), "ContentRemoved", "All content successfully removed"),
		condition(corev1.NamespaceFinalizersRemaining, len(finalizers) > 0, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+strings.Join(finalizers, ", "), "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
	changed := false
	next := namespace.DeepCopy()
	for _, c := range conditions {
		i := slices.IndexFunc(next.Status.Conditions, func(o corev1.NamespaceCondition) bool { return o.Type == c.Type })
		switch {
		case i < 0:
			next.Status.Conditions, changed = append(next.Status.Conditions, c), true
		case next.Status.Conditions[i].Status != c.Status || next.Status.Conditions[i].Message != c.Message:
			next.Status.Conditions[i], changed = c, true
		}
	}
	if !changed || found.undiscovered == nil && found.failed == nil && len(found.left) == 0 {
		return nil // it is about to go: nobody will read it
	}
	_, err := k.Client.Kubernetes.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("report on namespace %s: %w", namespace.Name, err)
	}
	return nil
}
