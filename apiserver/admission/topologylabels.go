package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
)

// topologyLabels copies the zone and region of a node to the pods that are bound to it (KEP-4742), so that a pod can
// read its place through the downward API. On a binding the labels travel on the Binding, and binding puts them on the pod.
type topologyLabels struct{ cluster *cluster }

func (*topologyLabels) Handles(op admission.Operation) bool { return op == admission.Create }

// Admit implements admission.MutationInterface.
func (p *topologyLabels) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != "" {
		return nil
	}
	switch object := a.GetObject().(type) {
	case *corev1.Binding:
		if a.GetResource().Resource == "pods" && a.GetSubresource() == "binding" || a.GetResource().Resource == "bindings" {
			return p.copyLabels(ctx, object.Target.Name, &object.Labels)
		}
	case *corev1.Pod:
		if a.GetResource().Resource == "pods" && a.GetSubresource() == "" && object.Spec.NodeName != "" {
			return p.copyLabels(ctx, object.Spec.NodeName, &object.Labels)
		}
	}
	return nil
}

func (p *topologyLabels) copyLabels(ctx context.Context, name string, to *map[string]string) error {
	node, err := p.cluster.node(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil // binding to what is not there yet is allowed
	}
	if err != nil {
		return err
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			if *to == nil {
				*to = map[string]string{}
			}
			(*to)[key] = value
		}
	}
	return nil
}
