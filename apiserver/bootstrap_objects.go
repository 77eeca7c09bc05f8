package apiserver

import (
	"context"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingapply "k8s.io/client-go/applyconfigurations/networking/v1"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/api/kinds"
)

// keepServiceCIDR makes the ServiceCIDR that says which ranges this server hands out, and marks it ready (KEP-1880). One that
// says something else is somebody's to look at, and stays, but for a second family, which may be added.
func (s *Server) keepServiceCIDR(ctx context.Context, cs kubernetes.Interface) error {
	if s.resource(networkingv1.SchemeGroupVersion.WithResource("servicecidrs")) == nil || len(s.config.ServiceCIDRs) == 0 {
		return nil
	}
	ranges := make([]string, len(s.config.ServiceCIDRs))
	for i, p := range s.config.ServiceCIDRs {
		ranges[i] = p.Masked().String()
	}
	cidrs := cs.NetworkingV1().ServiceCIDRs()
	have, err := cidrs.Get(ctx, kubernetesService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		have, err = cidrs.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: kubernetesService},
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}, metav1.CreateOptions{})
	case err == nil && len(ranges) == 2 && len(have.Spec.CIDRs) == 1 && have.Spec.CIDRs[0] == ranges[0]:
		have = have.DeepCopy()
		have.Spec.CIDRs = ranges
		have, err = cidrs.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	if !slices.Equal(have.Spec.CIDRs, ranges) {
		s.log.Warn("service CIDR kubernetes does not say what this server is configured for", "configured", ranges, "cidrs", have.Spec.CIDRs)
		return nil
	}
	if have.DeletionTimestamp != nil || meta.FindStatusCondition(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil
	}
	ready := metaapply.Condition().WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(metav1.ConditionTrue).WithMessage("Kubernetes default Service CIDR is ready").
		WithLastTransitionTime(metav1.Now())
	_, err = cidrs.ApplyStatus(ctx, networkingapply.ServiceCIDR(kubernetesService).WithStatus(networkingapply.ServiceCIDRStatus().WithConditions(ready)),
		metav1.ApplyOptions{FieldManager: rangeManager, Force: true})
	return err
}

// rangeManager is upstream's name for what marks the ServiceCIDR ready.
const rangeManager = "kubernetes-service-cidr-controller"

// flowKeeper is upstream's name for what makes the priority levels and flow schemas.
const flowKeeper = "api-priority-and-fairness-config-producer-v1"

// keepFlowControl makes the priority levels and flow schemas that upstream makes (KEP-1040). The mandatory ones are always
// as they should be; a suggested one that a user has taken over (its annotation says so) is left alone.
func (s *Server) keepFlowControl(ctx context.Context, cs kubernetes.Interface) error {
	if s.resource(flowcontrolv1.SchemeGroupVersion.WithResource("flowschemas")) == nil {
		return nil
	}
	levels, schemas := cs.FlowcontrolV1().PriorityLevelConfigurations(), cs.FlowcontrolV1().FlowSchemas()
	mandatory, suggested := kinds.SystemPriorityLevels()
	for i, want := range append(mandatory, suggested...) {
		have, err := levels.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = levels.Create(ctx, want, metav1.CreateOptions{FieldManager: flowKeeper})
		} else if err == nil && keepsItself(have.Annotations, i < len(mandatory)) {
			next := have.DeepCopy()
			exempt := next.Spec.Exempt
			next.Spec = want.Spec
			if i < len(mandatory) && exempt != nil { // the one part of it that is the administrator's
				next.Spec.Exempt = exempt
			}
			if !apiequality.Semantic.DeepEqual(next.Spec, have.Spec) {
				_, err = levels.Update(ctx, next, metav1.UpdateOptions{FieldManager: flowKeeper})
			}
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("keep priority level %s: %w", want.Name, err)
		}
	}
	mandatorySchemas, suggestedSchemas := kinds.SystemFlowSchemas()
	for i, want := range append(mandatorySchemas, suggestedSchemas...) {
		have, err := schemas.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = schemas.Create(ctx, want, metav1.CreateOptions{FieldManager: flowKeeper})
		} else if err == nil && keepsItself(have.Annotations, i < len(mandatorySchemas)) && !apiequality.Semantic.DeepEqual(want.Spec, have.Spec) {
			next := have.DeepCopy()
			next.Spec = want.Spec
			_, err = schemas.Update(ctx, next, metav1.UpdateOptions{FieldManager: flowKeeper})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("keep flow schema %s: %w", want.Name, err)
		}
	}
	return nil
}

// keepsItself reports whether the server brings an object up to date.
func keepsItself(annotations map[string]string, mandatory bool) bool {
	return mandatory || annotations[flowcontrolv1.AutoUpdateAnnotationKey] == "true"
}
