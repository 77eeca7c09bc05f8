package verbs

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A namespace goes in two steps: deleting it marks it Terminating, the namespace controller empties it and takes its
// spec.finalizers away, and with the last of them it is gone.

// namespaceFate decides what deletion means for a namespace now. ns is the caller's copy of old.
func namespaceFate(ns *corev1.Namespace, old runtime.Object, options *metav1.DeleteOptions) (runtime.Object, fate, error) {
	if ns.DeletionTimestamp.IsZero() {
		t := now()
		ns.DeletionTimestamp = &t
		ns.Status.Phase = corev1.NamespaceTerminating
		if p := options.PropagationPolicy; p != nil && *p == metav1.DeletePropagationOrphan {
			has := false
			for _, f := range ns.Finalizers {
				has = has || f == metav1.FinalizerOrphanDependents
			}
			if !has {
				ns.Finalizers = append(ns.Finalizers, metav1.FinalizerOrphanDependents)
			}
		}
		return ns, mark, nil
	}
	if len(ns.Spec.Finalizers) > 0 || len(ns.Finalizers) > 0 {
		return ns, already, nil
	}
	return ns, remove, nil
}

// namespaceWaits tells whether obj is a namespace, and if so whether its content has still to be removed.
func namespaceWaits(obj runtime.Object) (waits, isNamespace bool) {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return false, false
	}
	return len(ns.Spec.Finalizers) > 0, true
}
