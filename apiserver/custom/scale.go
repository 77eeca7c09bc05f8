package custom

import (
	"fmt"
	"math"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/api/kinds"
)

// unset stands for a number of replicas that the object does not have, while it is being changed.
const unset = math.MinInt32

// scale is the scale subresource.
func (v *version) scale(s *apiextensionsv1.CustomResourceSubresourceScale) *kinds.Subresource {
	paths := map[string][]string{}
	for _, o := range v.def.versions {
		paths[o.gvk.GroupVersion().String()] = nil
		if o.v.Subresources != nil && o.v.Subresources.Scale != nil {
			paths[o.gvk.GroupVersion().String()] = steps(o.v.Subresources.Scale.SpecReplicasPath)
		}
	}
	return &kinds.Subresource{
		Verbs:         []string{"get", "patch", "update"},
		Kind:          autoscalingv1.SchemeGroupVersion.WithKind("Scale"),
		ReplicasPaths: paths,
		Read: func(parent runtime.Object) (runtime.Object, error) {
			scale, found, err := scaleOf(parent.(*unstructured.Unstructured), s)
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			if !found {
				return nil, apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath))
			}
			return scale, nil
		},
		Base: func(parent runtime.Object) (runtime.Object, error) {
			scale, found, err := scaleOf(parent.(*unstructured.Unstructured), s)
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			if !found {
				scale.Spec.Replicas = unset
			}
			return scale, nil
		},
		Write: func(parent, sub runtime.Object) (runtime.Object, error) {
			scale, u := sub.(*autoscalingv1.Scale), parent.(*unstructured.Unstructured).DeepCopy()
			if scale.Spec.Replicas == unset {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", s.SpecReplicasPath))
			}
			if err := unstructured.SetNestedField(u.Object, int64(scale.Spec.Replicas), steps(s.SpecReplicasPath)...); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			if scale.ResourceVersion != "" {
				u.SetResourceVersion(scale.ResourceVersion)
			}
			return u, nil
		},
		PrepareForUpdate: v.prepareUpdate,
		ValidateUpdate:   v.validateUpdate,
	}
}

// scaleOf is what u looks like as a Scale. found is false when it has no number of replicas, which then reads 0.
func scaleOf(u *unstructured.Unstructured, s *apiextensionsv1.CustomResourceSubresourceScale) (_ *autoscalingv1.Scale, found bool, err error) {
	wanted, found, err := unstructured.NestedInt64(u.Object, steps(s.SpecReplicasPath)...)
	if err != nil {
		return nil, false, err
	}
	have, _, err := unstructured.NestedInt64(u.Object, steps(s.StatusReplicasPath)...)
	if err != nil {
		return nil, false, err
	}
	selector := ""
	if s.LabelSelectorPath != nil {
		if selector, _, err = unstructured.NestedString(u.Object, steps(*s.LabelSelectorPath)...); err != nil {
			return nil, false, err
		}
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion(), CreationTimestamp: u.GetCreationTimestamp()},
		Spec:       autoscalingv1.ScaleSpec{Replicas: int32(wanted)},
		Status:     autoscalingv1.ScaleStatus{Replicas: int32(have), Selector: selector},
	}, found, nil
}
