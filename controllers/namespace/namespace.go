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

// again is how soon a namespace is looked at again whose contents are still terminating.
const again = time.Second

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
	left, err := k.empty(ctx, name)
	if reportErr := k.report(ctx, namespace, left, err); reportErr != nil {
		return errors.Join(err, reportErr)
	}
	if err != nil {
		return err
	}
	if len(left) > 0 {
		k.loop.AddAfter(name, again)
		return nil
	}
	done := namespace.DeepCopy()
	done.Spec.Finalizers = slices.DeleteFunc(done.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	// The status was just written: the finalize subresource takes what the resourceVersion of now allows.
	done.ResourceVersion = ""
	if _, err := k.Client.Kubernetes.CoreV1().Namespaces().Finalize(ctx, done, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	return nil
}

// empty deletes whatever is in the namespace and returns what is still there, by resource.
func (k *controller) empty(ctx context.Context, name string) (left map[schema.GroupVersionResource]int, err error) {
	lists, err := k.Client.Kubernetes.Discovery().ServerPreferredNamespacedResources()
	var errs []error
	if err != nil {
		// A group that cannot be discovered (an aggregated server that is away) may hide contents: go on, but do not finish.
		errs = append(errs, fmt.Errorf("discover resources: %w", err))
	}
	left = map[schema.GroupVersionResource]int{}
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
			resource := group.WithResource(r.Name)
			n, err := k.emptyOf(ctx, name, resource, slices.Contains(r.Verbs, "deletecollection"))
			if err != nil {
				errs = append(errs, err)
			}
			if n > 0 {
				left[resource] = n
			}
		}
	}
	return left, errors.Join(errs...)
}

func (k *controller) emptyOf(ctx context.Context, namespace string, resource schema.GroupVersionResource, collection bool) (int, error) {
	client := k.metadata.Resource(resource).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("list %s in namespace %s: %w", resource.GroupResource(), namespace, err)
	}
	if len(list.Items) == 0 {
		return 0, nil
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if collection {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return len(list.Items), fmt.Errorf("delete %s in namespace %s: %w", resource.GroupResource(), namespace, err)
		}
	} else {
		for i := range list.Items {
			if err := client.Delete(ctx, list.Items[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
				return len(list.Items), fmt.Errorf("delete %s %s/%s: %w", resource.GroupResource(), namespace, list.Items[i].Name, err)
			}
		}
	}
	list, err = client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("list %s in namespace %s: %w", resource.GroupResource(), namespace, err)
	}
	return len(list.Items), nil
}

// report writes the conditions by which upstream says what holds a deletion up.
func (k *controller) report(ctx context.Context, namespace *corev1.Namespace, left map[schema.GroupVersionResource]int, failed error) error {
	now := metav1.Now()
	condition := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) corev1.NamespaceCondition {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		return c
	}
	message := ""
	if failed != nil {
		message = failed.Error()
	}
	var remaining []string
	for resource, n := range left {
		remaining = append(remaining, fmt.Sprintf("%s has %d resource instances", resource.GroupResource(), n))
	}
	slices.Sort(remaining)
	conditions := []corev1.NamespaceCondition{
		condition(corev1.NamespaceDeletionDiscoveryFailure, false, "", "", "ResourcesDiscovered", "All resources successfully discovered"),
		condition(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		condition(corev1.NamespaceDeletionContentFailure, failed != nil, "ContentDeletionFailed", message, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		condition(corev1.NamespaceContentRemaining, len(left) > 0, "SomeResourcesRemain", "Some resources are remaining: "+strings.Join(remaining, ", "), "ContentRemoved", "All content successfully removed"),
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
	if !changed || failed == nil && len(left) == 0 {
		return nil // it is about to go: nobody will read it
	}
	_, err := k.Client.Kubernetes.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("report on namespace %s: %w", namespace.Name, err)
	}
	return nil
}
