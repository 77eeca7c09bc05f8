// Package disruption keeps the status of PodDisruptionBudgets: how many pods there should be, how many are healthy, and how many may
// go. The eviction subresource spends what is allowed. Upstream's counterpart is the disruption controller.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/client"
)

// Config is what the controller needs.
type Config struct {
	Client   *client.Set // as kube-system/disruption-controller
	Recorder record.EventRecorder
	Log      *slog.Logger
}

// evictionTimeout is how long an allowed eviction counts as a pod that is going, when its deletion does not show up.
const evictionTimeout = 2 * time.Minute

type controller struct {
	Config
	pods    corelisters.PodLister
	budgets policylisters.PodDisruptionBudgetLister
	loop    *client.Loop
}

// Run works until ctx ends.
func Run(ctx context.Context, c Config) error {
	pods, budgets := c.Client.Informers.Core().V1().Pods(), c.Client.Informers.Policy().V1().PodDisruptionBudgets()
	x := &controller{Config: c, pods: pods.Lister(), budgets: budgets.Lister()}
	x.loop = client.NewLoop("disruption", 2, c.Log, x.sync)
	var handlers client.Handlers
	defer handlers.Remove()
	if err := handlers.On(budgets.Informer(), client.Each(func(b *policyv1.PodDisruptionBudget) { x.loop.Add(b.Namespace + "/" + b.Name) })); err != nil {
		return fmt.Errorf("watch disruption budgets: %w", err)
	}
	if err := handlers.On(pods.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { x.podChanged(obj.(*corev1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if was, is := old.(*corev1.Pod), obj.(*corev1.Pod); counts(was, is) {
				x.podChanged(was) // it may have been another budget's
				x.podChanged(is)
			}
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				x.podChanged(pod)
			}
		},
	}); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	handlers.Sync(ctx, c.Client) // a budget must not be judged by half of its pods
	x.loop.Run(ctx)
	return nil
}

// counts reports whether anything changed that a budget reads.
func counts(old, pod *corev1.Pod) bool {
	return ready(old) != ready(pod) || (old.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) || old.Status.Phase != pod.Status.Phase ||
		!maps.Equal(old.Labels, pod.Labels)
}

// podChanged asks for the budgets that select the pod.
func (x *controller) podChanged(pod *corev1.Pod) {
	budgets, err := x.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, b := range budgets {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			x.loop.Add(b.Namespace + "/" + b.Name)
		}
	}
}

// sync brings one budget's status up to date.
func (x *controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	b, err := x.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	status, again, err := x.judge(ctx, b)
	if err != nil {
		// Who cannot count allows nothing.
		x.Recorder.Event(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", fmt.Sprintf("Failed to calculate the number of expected pods: %v", err))
		failed := b.Status.DeepCopy()
		failed.DisruptionsAllowed, failed.ObservedGeneration = 0, b.Generation
		meta.SetStatusCondition(&failed.Conditions, metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			ObservedGeneration: b.Generation, Reason: policyv1.SyncFailedReason, Message: err.Error()})
		if werr := x.write(ctx, b, failed); werr != nil {
			return werr
		}
		return fmt.Errorf("count the pods of disruption budget %s: %w", key, err)
	}
	if again > 0 {
		x.loop.AddAfter(key, again)
	}
	return x.write(ctx, b, status)
}

func (x *controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget, status *policyv1.PodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(&b.Status, status) {
		return nil
	}
	fresh := b.DeepCopy()
	fresh.Status = *status
	// With the resource version, so that an eviction which was granted meanwhile is not taken back.
	_, err := x.Client.Kubernetes.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, fresh, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status of disruption budget %s/%s: %w", b.Namespace, b.Name, err)
	}
	return nil
}

// judge works out the status, and after how long to look again (zero: when something happens).
func (x *controller) judge(ctx context.Context, b *policyv1.PodDisruptionBudget) (*policyv1.PodDisruptionBudgetStatus, time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, 0, err
	}
	all, err := x.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return nil, 0, err
	}
	pods := slices.DeleteFunc(slices.Clone(all), func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	expected, desired, err := x.expected(ctx, b, pods)
	if err != nil {
		return nil, 0, err
	}
	status := b.Status.DeepCopy()
	var again time.Duration
	status.DisruptedPods, again = x.leaving(b, pods)
	status.ExpectedPods, status.DesiredHealthy, status.ObservedGeneration = expected, desired, b.Generation
	status.CurrentHealthy = 0
	for _, p := range pods {
		if _, going := status.DisruptedPods[p.Name]; !going && p.DeletionTimestamp == nil && ready(p) {
			status.CurrentHealthy++
		}
	}
	status.DisruptionsAllowed = max(0, status.CurrentHealthy-desired)
	if expected <= 0 {
		status.DisruptionsAllowed = 0
	}
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Generation}
	if status.DisruptionsAllowed > 0 {
		condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&status.Conditions, condition)
	return status, again, nil
}

// leaving keeps of the granted evictions those whose pods are still to go, and returns when the first of them is too old.
func (x *controller) leaving(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (map[string]metav1.Time, time.Duration) {
	if len(b.Status.DisruptedPods) == 0 {
		return nil, 0
	}
	left := map[string]metav1.Time{}
	var again time.Duration
	for _, p := range pods {
		granted, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil { // it goes: the pod itself says so now
			continue
		}
		rest := time.Until(granted.Add(evictionTimeout))
		if rest <= 0 {
			x.Recorder.Event(p, corev1.EventTypeWarning, "NotDeleted", fmt.Sprintf("Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name))
			continue
		}
		left[p.Name] = granted
		if again == 0 || rest < again {
			again = rest
		}
	}
	return left, again
}

// expected returns how many pods there should be, and how many of them must be healthy.
func (x *controller) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	spec := &b.Spec
	if spec.MaxUnavailable == nil && (spec.MinAvailable == nil || spec.MinAvailable.Type == intstr.Int) {
		if spec.MinAvailable != nil {
			desired = spec.MinAvailable.IntVal
		}
		return int32(len(pods)), desired, nil
	}
	if expected, err = x.scale(ctx, b, pods); err != nil {
		return 0, 0, err
	}
	limit := spec.MinAvailable
	if spec.MaxUnavailable != nil {
		limit = spec.MaxUnavailable
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, int(expected), true)
	if err != nil {
		return 0, 0, err
	}
	if spec.MaxUnavailable != nil {
		return expected, max(0, expected-int32(n)), nil
	}
	return expected, int32(n), nil
}

// scale adds up how many pods the controllers of these pods want.
func (x *controller) scale(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (int32, error) {
	wanted := map[types.UID]int32{} // by controller: each counts once
	above := map[types.UID]types.UID{}
	unmanaged := 0
	for _, p := range pods {
		ref := metav1.GetControllerOf(p)
		if ref == nil {
			unmanaged++
			continue
		}
		if _, known := above[ref.UID]; known {
			continue
		}
		top, err := x.top(ctx, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		above[ref.UID] = top.UID
		if _, known := wanted[top.UID]; known {
			continue
		}
		if wanted[top.UID], err = x.replicas(ctx, p.Namespace, top); err != nil {
			return 0, err
		}
	}
	if unmanaged > 0 {
		x.Recorder.Event(b, corev1.EventTypeWarning, "UnmanagedPods",
			fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", metav1.FormatLabelSelector(b.Spec.Selector)))
	}
	var total int32
	for _, n := range wanted {
		total += n
	}
	return total, nil
}

// top returns the Deployment above a ReplicaSet; any other controller stands for itself.
func (x *controller) top(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*metav1.OwnerReference, error) {
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != "apps" || ref.Kind != "ReplicaSet" {
		return ref, nil //nolint:nilerr // a version that does not parse is found out where it is looked up
	}
	set, err := x.Client.Kubernetes.AppsV1().ReplicaSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ref, nil
	} else if err != nil {
		return nil, fmt.Errorf("get replica set %s: %w", ref.Name, err)
	}
	if up := metav1.GetControllerOf(set); up != nil && up.Kind == "Deployment" {
		return up, nil
	}
	return ref, nil
}

// replicas asks the controller's scale subresource, which every kind of controller that can be budgeted has. One that is gone wants none.
func (x *controller) replicas(ctx context.Context, namespace string, ref *metav1.OwnerReference) (int32, error) {
	list, err := x.Client.Kubernetes.Discovery().ServerResourcesForGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, fmt.Errorf("discover %s: %w", ref.APIVersion, err)
	}
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == ref.Kind && !strings.Contains(r.Name, "/") })
	if i < 0 {
		return 0, fmt.Errorf("%s has no %s", ref.APIVersion, ref.Kind)
	}
	plural := list.APIResources[i].Name
	if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == plural+"/scale" }) {
		return 0, fmt.Errorf("%s.%s does not implement the scale subresource", plural, ref.APIVersion)
	}
	root := "/apis"
	if ref.APIVersion == "v1" {
		root = "/api"
	}
	var scale autoscalingv1.Scale
	err = x.Client.Kubernetes.CoreV1().RESTClient().Get().AbsPath(root, ref.APIVersion, "namespaces", namespace, plural, ref.Name, "scale").Do(ctx).Into(&scale)
	if apierrors.IsNotFound(err) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	return scale.Spec.Replicas, nil
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
