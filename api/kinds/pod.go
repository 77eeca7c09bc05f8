package kinds

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Pods is the kind that all is about. Its files: pod_defaults* fill in, pod_prepare* reset, pod_validate* and pod_update* check,
// pod_print prints, pod_warnings warns, pod_qos and pod_levelresources reckon.
func Pods() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Pod"),
		Plural:           "pods",
		Singular:         "pod",
		ShortNames:       []string{"po"},
		Categories:       []string{"all"},
		Namespaced:       true,
		Verbs:            []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
		New:              func() runtime.Object { return &corev1.Pod{} },
		NewList:          func() runtime.Object { return &corev1.PodList{} },
		StoragePrefix:    "pods",

		Default:          defaultPod,
		PrepareForCreate: preparePodForCreate,
		PrepareForUpdate: preparePodForUpdate,
		Validate:         validatePod,
		ValidateUpdate:   validatePodUpdate,
		Warnings:         podWarnings,
		ValidateName:     NameIsDNSSubdomain,

		Subresources: map[string]*Subresource{
			"status": {
				Verbs:            []string{"get", "patch", "update"},
				Resets:           []string{"metadata.deletionTimestamp", "metadata.ownerReferences"},
				PrepareForUpdate: preparePodStatusForUpdate,
				ValidateUpdate:   validatePodStatusUpdate,
			},
			"ephemeralcontainers": {
				Verbs:            []string{"get", "patch", "update"},
				PrepareForUpdate: preparePodEphemeralContainersForUpdate,
				ValidateUpdate:   validatePodEphemeralContainersUpdate,
			},
			"resize": {
				Verbs:            []string{"get", "patch", "update"},
				PrepareForUpdate: preparePodResizeForUpdate,
				ValidateUpdate:   validatePodResize,
			},
		},
		ConnectSubresources: []SubresourceInfo{
			{Name: "attach", Kind: corev1.SchemeGroupVersion.WithKind("PodAttachOptions"), Verbs: []string{"create", "get"}},
			{Name: "binding", Kind: corev1.SchemeGroupVersion.WithKind("Binding"), Verbs: []string{"create"}},
			{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}},
			{Name: "exec", Kind: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Verbs: []string{"create", "get"}},
			{Name: "log", Kind: corev1.SchemeGroupVersion.WithKind("Pod"), Verbs: []string{"get"}},
			{Name: "portforward", Kind: corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions"), Verbs: []string{"create", "get"}},
			{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
		},

		SelectableFields: podFields,
		FieldLabels: append(metaFieldLabels[:2:2], "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"),
		Columns:       podColumns(),
		Row:           podRow,
		RowConditions: podRowConditions,

		Graceful:                 podGracePeriod,
		AllowUnconditionalUpdate: true,
	}
}

// podFields returns what field selectors may ask for. Like upstream's it accepts status.podIPs but has no value for it.
func podFields(obj runtime.Object) fields.Set {
	pod := obj.(*corev1.Pod)
	set := metaFields(&pod.ObjectMeta, true, 8)
	set["spec.nodeName"] = pod.Spec.NodeName
	set["spec.restartPolicy"] = string(pod.Spec.RestartPolicy)
	set["spec.schedulerName"] = pod.Spec.SchedulerName
	set["spec.serviceAccountName"] = pod.Spec.ServiceAccountName
	set["spec.hostNetwork"] = strconv.FormatBool(pod.Spec.HostNetwork)
	set["status.phase"] = string(pod.Status.Phase)
	set["status.podIP"] = ""
	if len(pod.Status.PodIPs) > 0 {
		set["status.podIP"] = pod.Status.PodIPs[0].IP
	}
	set["status.nominatedNodeName"] = pod.Status.NominatedNodeName
	return set
}

// podGracePeriod returns how many seconds a pod has to stop: what the deletion asks for, else what the pod's specification
// says, and none for a pod that has nothing to stop because it never got to a node, or has ended.
func podGracePeriod(obj runtime.Object, options *metav1.DeleteOptions) int64 {
	pod := obj.(*corev1.Pod)
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	seconds := int64(0)
	switch {
	case options != nil && options.GracePeriodSeconds != nil:
		seconds = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}
