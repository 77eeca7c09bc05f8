package churn

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"wherry.dev/wherry/test/foreign/hollow"
)

// deployment is rolled out, scaled, rolled to a new template, paused, rolled back by hand, and deleted.
func (t *turn) deployment(ctx context.Context) error {
	deployments := t.Kube.AppsV1().Deployments(t.ns)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(3)), Selector: selector("web"), Template: template("web"), RevisionHistoryLimit: ptr(int32(1))}}
	if _, err := deployments.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	complete := func(replicas int32) error {
		return t.until(ctx, "the deployment to be complete", func(ctx context.Context) (bool, error) {
			d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s := d.Status
			return s.ObservedGeneration == d.Generation && s.Replicas == replicas && s.UpdatedReplicas == replicas && s.AvailableReplicas == replicas, nil
		})
	}
	if err := complete(3); err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: t.ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 6}}
	if _, err := deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := complete(6); err != nil {
		return err
	}
	for i := range 3 {
		patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"round":"%d"}}}}}`, i)
		if _, err := deployments.Patch(ctx, "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
		if err := complete(6); err != nil {
			return err
		}
	}
	if _, err := deployments.Patch(ctx, "web", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/strategy","value":{"type":"Recreate"}},{"op":"replace","path":"/spec/replicas","value":2}]`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := complete(2); err != nil {
		return err
	}
	if err := deployments.Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}); err != nil {
		return err
	}
	return t.until(ctx, "the deployment to be gone after all it owns", func(ctx context.Context) (bool, error) {
		if _, err := deployments.Get(ctx, "web", metav1.GetOptions{}); err == nil {
			return false, nil
		} else if err := ignoreNotFound(err); err != nil {
			return false, err
		}
		sets, err := t.Kube.AppsV1().ReplicaSets(t.ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(sets.Items) > 0 {
			return false, fmt.Errorf("%d replica sets outlive their owner (%w)", len(sets.Items), err)
		}
		return true, nil
	})
}

// statefulSet gets its pods in order, with a claim for each, which a volume made beforehand satisfies.
func (t *turn) statefulSet(ctx context.Context) error {
	class := t.ns
	for i := range 3 {
		if err := t.makeVolume(ctx, fmt.Sprintf("%s-%d", t.ns, i), class); err != nil {
			return err
		}
	}
	defer t.removeVolumes(ctx, class)
	sets := t.Kube.AppsV1().StatefulSets(t.ns)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{ServiceName: "db", Replicas: ptr(int32(3)), Selector: selector("db"), Template: template("db"),
		PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType},
		VolumeClaimTemplates:                 []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec(class)}}}}
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=db", 3); err != nil {
		return err
	}
	if _, err := sets.Patch(ctx, "db", types.MergePatchType, []byte(`{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := t.until(ctx, "the set to be updated", func(ctx context.Context) (bool, error) {
		s, err := sets.Get(ctx, "db", metav1.GetOptions{})
		return err == nil && s.Status.CurrentRevision == s.Status.UpdateRevision && s.Status.ReadyReplicas == 3 && s.Status.ObservedGeneration == s.Generation, err
	}); err != nil {
		return err
	}
	if _, err := sets.Patch(ctx, "db", types.MergePatchType, []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}, "scale"); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=db", 1); err != nil {
		return err
	}
	if err := sets.Delete(ctx, "db", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the claims to go with their set", func(ctx context.Context) (bool, error) {
		l, err := t.Kube.CoreV1().PersistentVolumeClaims(t.ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(l.Items) == 0, err
	})
}

// daemonSet puts a pod on each hollow node that its selector names, also on one that joins later.
func (t *turn) daemonSet(ctx context.Context) error {
	mine := map[string]string{"churn": t.ns}
	first, second := t.ns+"-a", t.ns+"-b"
	add := func(name string) error {
		if err := t.Nodes.Add(ctx, name); err != nil {
			return err
		}
		_, err := t.Kube.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"churn":"`+t.ns+`"}}}`), metav1.PatchOptions{})
		return err
	}
	if err := add(first); err != nil {
		return err
	}
	defer t.Nodes.Remove(ctx, first)
	sets := t.Kube.AppsV1().DaemonSets(t.ns)
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Selector: selector("agent"), Template: template("agent")}}
	set.Spec.Template.Spec.NodeSelector = mine
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=agent", 1); err != nil {
		return err
	}
	if err := add(second); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=agent", 2); err != nil {
		return err
	}
	if _, err := sets.Patch(ctx, "agent", types.StrategicMergePatchType, []byte(`{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := t.until(ctx, "the daemon set to be updated", func(ctx context.Context) (bool, error) {
		s, err := sets.Get(ctx, "agent", metav1.GetOptions{})
		return err == nil && s.Status.ObservedGeneration == s.Generation && s.Status.UpdatedNumberScheduled == 2 && s.Status.NumberReady == 2, err
	}); err != nil {
		return err
	}
	if err := t.Nodes.Remove(ctx, second); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=agent", 1); err != nil {
		return err
	}
	return sets.Delete(ctx, "agent", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)})
}

func (t *turn) replicationController(ctx context.Context) error {
	controllers := t.Kube.CoreV1().ReplicationControllers(t.ns)
	pod := template("old")
	if _, err := controllers.Create(ctx, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec: corev1.ReplicationControllerSpec{Replicas: ptr(int32(2)), Selector: labels("old"), Template: &pod}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=old", 2); err != nil {
		return err
	}
	// The pods stay when their owner is orphaned away.
	if err := controllers.Delete(ctx, "old", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationOrphan)}); err != nil {
		return err
	}
	return t.until(ctx, "orphaned pods", func(ctx context.Context) (bool, error) {
		n, err := t.pods(ctx, "app=old", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 })
		return n == 2, err
	})
}

// autoscaler finds no metrics, and says so in its conditions.
func (t *turn) autoscaler(ctx context.Context) error {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "load"}, Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(1)), Selector: selector("load"), Template: template("load")}}
	if _, err := t.Kube.AppsV1().Deployments(t.ns).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return err
	}
	scalers := t.Kube.AutoscalingV2().HorizontalPodAutoscalers(t.ns)
	if _, err := scalers.Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "load"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "load"}, MinReplicas: ptr(int32(2)), MaxReplicas: 5,
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr(int32(50))}}}},
	}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=load", 2); err != nil { // the minimum, for which no metric is needed
		return err
	}
	return t.until(ctx, "the autoscaler's conditions", func(ctx context.Context) (bool, error) {
		h, err := scalers.Get(ctx, "load", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range h.Status.Conditions {
			if c.Type == autoscalingv2.AbleToScale && c.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
}

// priority: a pod that finds no room evicts one of lower priority.
func (t *turn) priority(ctx context.Context) error {
	name := t.ns + "-p"
	if err := t.Nodes.Add(ctx, name); err != nil {
		return err
	}
	defer t.Nodes.Remove(ctx, name)
	classes := t.Kube.SchedulingV1().PriorityClasses()
	if _, err := classes.Create(ctx, priorityClass(t.ns, 1000), metav1.CreateOptions{}); err != nil {
		return err
	}
	defer classes.Delete(ctx, t.ns, metav1.DeleteOptions{})
	pods := t.Kube.CoreV1().Pods(t.ns)
	whole := func(pod string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod, Labels: labels(pod)}, Spec: podSpec()}
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name, hollow.Label: "true"}
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("40")
		p.Spec.TerminationGracePeriodSeconds = ptr(int64(0))
		return p
	}
	if _, err := pods.Create(ctx, whole("low"), metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=low", 1); err != nil {
		return err
	}
	high := whole("high")
	high.Spec.PriorityClassName = t.ns
	if _, err := pods.Create(ctx, high, metav1.CreateOptions{}); err != nil {
		return err
	}
	return t.untilPods(ctx, "app=high", 1)
}
