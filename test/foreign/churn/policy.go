package churn

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func priorityClass(name string, value int32) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
}

// quota lets a deployment have fewer pods than it wants, and is counted down again.
func (t *turn) quota(ctx context.Context) error {
	quotas := t.Kube.CoreV1().ResourceQuotas(t.ns)
	hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2"), corev1.ResourceConfigMaps: resource.MustParse("4"), "count/deployments.apps": resource.MustParse("1"), "requests.cpu": resource.MustParse("1")}
	if _, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	used := func(name corev1.ResourceName, want string) error {
		return t.until(ctx, fmt.Sprintf("quota of %s to be %s", name, want), func(ctx context.Context) (bool, error) {
			q, err := quotas.Get(ctx, "small", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			n := q.Status.Used[name]
			return len(q.Status.Hard) == len(hard) && n.Cmp(resource.MustParse(want)) == 0, nil
		})
	}
	if err := used(corev1.ResourcePods, "0"); err != nil {
		return err
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "big"}, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(4)), Selector: selector("big"), Template: template("big")}}
	if _, err := t.Kube.AppsV1().Deployments(t.ns).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=big", 2); err != nil {
		return err
	}
	if err := used(corev1.ResourcePods, "2"); err != nil {
		return err
	}
	if err := t.Kube.AppsV1().Deployments(t.ns).Delete(ctx, "big", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := used(corev1.ResourcePods, "0"); err != nil {
		return err
	}
	return used("count/deployments.apps", "0")
}

// disruption: a budget lets one pod be evicted and no second one until the first is replaced.
func (t *turn) disruption(ctx context.Context) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(3)), Selector: selector("kept"), Template: template("kept")}}
	if _, err := t.Kube.AppsV1().Deployments(t.ns).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	two := intstr.FromInt32(2)
	budgets := t.Kube.PolicyV1().PodDisruptionBudgets(t.ns)
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &two, Selector: selector("kept")}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	allowed := func(ctx context.Context) (bool, error) {
		b, err := budgets.Get(ctx, "kept", metav1.GetOptions{})
		return err == nil && b.Status.DisruptionsAllowed == 1 && b.Status.CurrentHealthy == 3, err
	}
	for range 2 {
		if err := t.until(ctx, "a disruption to be allowed", allowed); err != nil {
			return err
		}
		list, err := t.Kube.CoreV1().Pods(t.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=kept", FieldSelector: "status.phase=Running"})
		if err != nil {
			return err
		}
		evict := func(name string) error {
			return t.Kube.CoreV1().Pods(t.ns).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: t.ns, Name: name}})
		}
		var last error
		for _, pod := range list.Items {
			if pod.DeletionTimestamp == nil {
				if last = evict(pod.Name); last != nil {
					break
				}
			}
		}
		if !apierrors.IsTooManyRequests(last) {
			return fmt.Errorf("the budget did not stop evictions: %v", last)
		}
	}
	return nil
}

// finalizer: an object stays until its finalizer is taken away.
func (t *turn) finalizer(ctx context.Context) error {
	maps := t.Kube.CoreV1().ConfigMaps(t.ns)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"foreign.wherry.dev/hold"}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(ctx, "held", metav1.DeleteOptions{}); err != nil {
		return err
	}
	held, err := maps.Get(ctx, "held", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if held.DeletionTimestamp == nil {
		return fmt.Errorf("a deleted object with a finalizer has no deletion time")
	}
	held.Finalizers = nil
	if _, err := maps.Update(ctx, held, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, err = maps.Get(ctx, "held", metav1.GetOptions{})
	if err == nil {
		return fmt.Errorf("an object outlives its last finalizer")
	}
	return ignoreNotFound(err)
}

// policy is a ValidatingAdmissionPolicy whose expressions the controller type-checks.
func (t *turn) policy(ctx context.Context) error {
	policies := t.Kube.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: t.ns}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: t.ns}},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}}},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name != 'forbidden' || has(object.nosuchfield)", Message: "that name is taken"}}}}
	if _, err := policies.Create(ctx, p, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer policies.Delete(ctx, t.ns, metav1.DeleteOptions{})
	bindings := t.Kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	if _, err := bindings.Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: t.ns},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: t.ns, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer bindings.Delete(ctx, t.ns, metav1.DeleteOptions{})
	if err := t.until(ctx, "the policy to be type-checked", func(ctx context.Context) (bool, error) {
		p, err := policies.Get(ctx, t.ns, metav1.GetOptions{})
		if err != nil || p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
			return false, err
		}
		if len(p.Status.TypeChecking.ExpressionWarnings) != 1 || !strings.Contains(p.Status.TypeChecking.ExpressionWarnings[0].Warning, "nosuchfield") {
			return false, fmt.Errorf("type checking found %+v", p.Status.TypeChecking.ExpressionWarnings)
		}
		return true, nil
	}); err != nil {
		return err
	}
	return t.until(ctx, "the policy to be enforced", func(ctx context.Context) (bool, error) {
		_, err := t.Kube.CoreV1().ConfigMaps(t.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "forbidden"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return apierrors.IsInvalid(err), nil
	})
}
