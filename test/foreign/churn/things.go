package churn

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func claimSpec(class string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}
}

// makeVolume makes one of the machine's paths; it is never used.
func (t *turn) makeVolume(ctx context.Context, name, class string) error {
	_, err := t.Kube.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"churn": class}}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain, StorageClassName: class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
	}}, metav1.CreateOptions{})
	return err
}

func (t *turn) removeVolumes(ctx context.Context, class string) {
	_ = t.Kube.CoreV1().PersistentVolumes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "churn=" + class})
}

// makeClaim makes a claim named data, of the volumes of a class.
func (t *turn) makeClaim(ctx context.Context, class string) error {
	_, err := t.Kube.CoreV1().PersistentVolumeClaims(t.ns).Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec(class)}, metav1.CreateOptions{})
	return err
}

// claimedVolumes are of the claim.
func claimedVolumes() []corev1.Volume {
	return []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
}

// volume is bound to a claim, is released when the claim goes, and goes itself.
func (t *turn) volume(ctx context.Context) error {
	if err := t.makeVolume(ctx, t.ns, t.ns); err != nil {
		return err
	}
	defer t.removeVolumes(ctx, t.ns)
	if err := t.makeClaim(ctx, t.ns); err != nil {
		return err
	}
	phase := func(want corev1.PersistentVolumePhase) error {
		return t.until(ctx, "the volume to be "+string(want), func(ctx context.Context) (bool, error) {
			v, err := t.Kube.CoreV1().PersistentVolumes().Get(ctx, t.ns, metav1.GetOptions{})
			return err == nil && v.Status.Phase == want, err
		})
	}
	if err := phase(corev1.VolumeBound); err != nil {
		return err
	}
	if err := t.Kube.CoreV1().PersistentVolumeClaims(t.ns).Delete(ctx, "data", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := phase(corev1.VolumeReleased); err != nil {
		return err
	}
	if err := t.Kube.CoreV1().PersistentVolumes().Delete(ctx, t.ns, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the volume to be gone", func(ctx context.Context) (bool, error) {
		_, err := t.Kube.CoreV1().PersistentVolumes().Get(ctx, t.ns, metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	})
}

// lateVolume is bound only when the scheduler has a pod for it.
func (t *turn) lateVolume(ctx context.Context) error {
	classes := t.Kube.StorageV1().StorageClasses()
	late := storagev1.VolumeBindingWaitForFirstConsumer
	if _, err := classes.Create(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: t.ns}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &late}, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer classes.Delete(ctx, t.ns, metav1.DeleteOptions{})
	if err := t.makeVolume(ctx, t.ns, t.ns); err != nil {
		return err
	}
	defer t.removeVolumes(ctx, t.ns)
	if err := t.makeClaim(ctx, t.ns); err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user", Labels: labels("user")}, Spec: podSpec()}
	pod.Spec.Volumes = claimedVolumes()
	if _, err := t.Kube.CoreV1().Pods(t.ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	return t.untilPods(ctx, "app=user", 1)
}

// service gets the slices of its pods; one without a selector gets those that mirror its Endpoints.
func (t *turn) service(ctx context.Context) error {
	services := t.Kube.CoreV1().Services(t.ns)
	for _, s := range []*corev1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Selector: labels("web"), Ports: []corev1.ServicePort{{Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: labels("web"), Ports: []corev1.ServicePort{{Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
	} {
		if _, err := services.Create(ctx, s, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for i := range 3 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i), Labels: labels("web")}, Spec: podSpec()}
		pod.Spec.TerminationGracePeriodSeconds = ptr(int64(1))
		if _, err := t.Kube.CoreV1().Pods(t.ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	//nolint:staticcheck // the old kind is what is mirrored
	if _, err := t.Kube.CoreV1().Endpoints(t.ns).Create(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "outside"},
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	endpoints := func(service string, want int) error {
		return t.until(ctx, fmt.Sprintf("%d endpoints of %s", want, service), func(ctx context.Context) (bool, error) {
			l, err := t.Kube.DiscoveryV1().EndpointSlices(t.ns).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
			if err != nil {
				return false, err
			}
			n := 0
			for _, s := range l.Items {
				for _, e := range s.Endpoints {
					if e.Conditions.Ready == nil || *e.Conditions.Ready {
						n++
					}
				}
			}
			return n == want, nil
		})
	}
	for service, n := range map[string]int{"web": 3, "headless": 3, "outside": 1} {
		if err := endpoints(service, n); err != nil {
			return err
		}
	}
	if err := t.Kube.CoreV1().Pods(t.ns).Delete(ctx, "web-0", metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := endpoints("web", 2); err != nil {
		return err
	}
	if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return endpoints("web", 0)
}

// customResource is defined, its objects own others, and all of it goes.
func (t *turn) customResource(ctx context.Context) error {
	definitions := t.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	plural := "w" + t.ns[len("churn-"):]
	group := "foreign.wherry.dev"
	definition := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + group},
		"spec": map[string]any{"group": group, "scope": "Namespaced", "names": map[string]any{"plural": plural, "singular": plural + "s", "kind": "W" + plural[1:]},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"spec": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}}}
	if _, err := definitions.Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer definitions.Delete(ctx, plural+"."+group, metav1.DeleteOptions{})
	if err := t.until(ctx, "the definition to be established", func(ctx context.Context) (bool, error) {
		d, err := definitions.Get(ctx, plural+"."+group, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		conditions, _, _ := unstructured.NestedSlice(d.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return true, nil
			}
		}
		return false, nil
	}); err != nil {
		return err
	}
	objects := t.Dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}).Namespace(t.ns)
	var owner *unstructured.Unstructured
	if err := t.until(ctx, "an object of the new kind", func(ctx context.Context) (bool, error) {
		made, err := objects.Create(ctx, &unstructured.Unstructured{Object: map[string]any{"apiVersion": group + "/v1", "kind": "W" + plural[1:], "metadata": map[string]any{"name": "owner"},
			"spec": map[string]any{"size": int64(1)}}}, metav1.CreateOptions{})
		owner = made
		return err == nil, ignoreNotFound(err)
	}); err != nil {
		return err
	}
	reference := metav1.OwnerReference{APIVersion: group + "/v1", Kind: "W" + plural[1:], Name: "owner", UID: owner.GetUID(), BlockOwnerDeletion: ptr(true)}
	maps := t.Kube.CoreV1().ConfigMaps(t.ns)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{reference}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := objects.Delete(ctx, "owner", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}); err != nil {
		return err
	}
	// The collector looks for new kinds every half minute.
	return t.until(ctx, "both to be collected", func(ctx context.Context) (bool, error) {
		if _, err := maps.Get(ctx, "owned", metav1.GetOptions{}); err == nil {
			return false, nil
		}
		_, err := objects.Get(ctx, "owner", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	})
}

// owner: what an owner that never was seems to own is collected.
func (t *turn) owner(ctx context.Context) error {
	maps := t.Kube.CoreV1().ConfigMaps(t.ns)
	top, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "top"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for i := range 5 {
		reference := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "top", UID: top.UID}
		if _, err := t.Kube.CoreV1().Secrets(t.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("part-%d", i), OwnerReferences: []metav1.OwnerReference{reference}}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	stray := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: "0b6d9a8e-9a55-4b1e-a5a6-0123456789ab"}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "stray", OwnerReferences: []metav1.OwnerReference{stray}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := maps.Delete(ctx, "top", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "what is owned to be collected", func(ctx context.Context) (bool, error) {
		secrets, err := t.Kube.CoreV1().Secrets(t.ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(secrets.Items) > 0 {
			return false, err
		}
		_, err = maps.Get(ctx, "stray", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	})
}

// node comes with a pod on it and goes; the pod, which outlives its node and has a claim until then, is collected.
func (t *turn) node(ctx context.Context) error {
	name := t.ns + "-n"
	if err := t.Nodes.Add(ctx, name); err != nil {
		return err
	}
	defer t.Nodes.Remove(ctx, name)
	if err := t.makeVolume(ctx, t.ns, t.ns); err != nil {
		return err
	}
	defer t.removeVolumes(ctx, t.ns)
	if err := t.makeClaim(ctx, t.ns); err != nil {
		return err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "there", Labels: labels("there")}, Spec: podSpec()}
	pod.Spec.Volumes = claimedVolumes()
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
	if _, err := t.Kube.CoreV1().Pods(t.ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=there", 1); err != nil {
		return err
	}
	if err := t.until(ctx, "the node to have a range of addresses", func(ctx context.Context) (bool, error) {
		n, err := t.Kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err == nil && n.Spec.PodCIDR != "", err
	}); err != nil {
		return err
	}
	if err := t.Nodes.Remove(ctx, name); err != nil {
		return err
	}
	if err := t.until(ctx, "the pod of a node that is gone to be collected", func(ctx context.Context) (bool, error) {
		_, err := t.Kube.CoreV1().Pods(t.ns).Get(ctx, "there", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	}); err != nil {
		return err
	}
	// The scheduler goes through its books of claims only for a further pod, and upstream's has none left of a node that is gone.
	after := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "after", Labels: labels("after")}, Spec: podSpec()}
	if _, err := t.Kube.CoreV1().Pods(t.ns).Create(ctx, after, metav1.CreateOptions{}); err != nil {
		return err
	}
	return t.untilPods(ctx, "app=after", 1)
}

// taint drives a pod off its node.
func (t *turn) taint(ctx context.Context) error {
	name := t.ns + "-t"
	if err := t.Nodes.Add(ctx, name); err != nil {
		return err
	}
	defer t.Nodes.Remove(ctx, name)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "driven", Labels: labels("driven")}, Spec: podSpec()}
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
	if _, err := t.Kube.CoreV1().Pods(t.ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := t.untilPods(ctx, "app=driven", 1); err != nil {
		return err
	}
	if _, err := t.Kube.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(`{"spec":{"taints":[{"key":"churn","effect":"NoExecute"}]}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	return t.until(ctx, "the pod to be driven off", func(ctx context.Context) (bool, error) {
		_, err := t.Kube.CoreV1().Pods(t.ns).Get(ctx, "driven", metav1.GetOptions{})
		return err != nil, ignoreNotFound(err)
	})
}
