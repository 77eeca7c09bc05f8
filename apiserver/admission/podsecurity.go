package admission

import (
	"context"
	"errors"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	podsecurityadmission "k8s.io/pod-security-admission/admission"
	admissionapi "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"
)

// podSecurity holds pods to the level that their namespace's labels name (KEP-2579); upstream's own module decides.
// Without labels everything is allowed.
type podSecurity struct {
	delegate *podsecurityadmission.Admission
}

func newPodSecurity(c *cluster) (*podSecurity, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("pod security checks: %w", err)
	}
	privileged := string(podsecurityapi.LevelPrivileged)
	delegate := &podsecurityadmission.Admission{
		Configuration: &admissionapi.PodSecurityConfiguration{Defaults: admissionapi.PodSecurityDefaults{
			Enforce: privileged, EnforceVersion: podsecurityapi.VersionLatest,
			Audit: privileged, AuditVersion: podsecurityapi.VersionLatest,
			Warn: privileged, WarnVersion: podsecurityapi.VersionLatest,
		}},
		Evaluator:        evaluator,
		Metrics:          noMetrics{},
		PodSpecExtractor: podsecurityadmission.DefaultPodSpecExtractor{},
		NamespaceGetter:  namespaceGetter{c},
		PodLister:        podLister{c},
	}
	if err := delegate.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security configuration: %w", err)
	}
	if err := delegate.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("pod security configuration: %w", err)
	}
	return &podSecurity{delegate}, nil
}

func (*podSecurity) Handles(op admission.Operation) bool {
	return handles(op, admission.Create, admission.Update)
}

// Validate implements admission.ValidationInterface.
func (p *podSecurity) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	resource := a.GetResource().GroupResource()
	if resource != corev1.Resource("namespaces") && !p.delegate.PodSpecExtractor.HasPodSpec(resource) {
		return nil
	}
	result := p.delegate.Validate(ctx, attributes{a})
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for key, value := range result.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+key, value)
	}
	if result.Allowed {
		return nil
	}
	refused, ok := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity")).(*apierrors.StatusError)
	if !ok {
		return admission.NewForbidden(a, errors.New("Not allowed by PodSecurity"))
	}
	if told := result.Result; told != nil { // what the module says comes first
		if told.Message != "" {
			refused.ErrStatus.Message = told.Message
		}
		if told.Reason != "" {
			refused.ErrStatus.Reason = told.Reason
		}
		if told.Details != nil {
			refused.ErrStatus.Details = told.Details
		}
		if told.Code != 0 {
			refused.ErrStatus.Code = told.Code
		}
	}
	return refused
}

// attributes gives the module the request in its own terms.
type attributes struct{ admission.Attributes }

func (a attributes) GetObject() (runtime.Object, error)    { return a.Attributes.GetObject(), nil }
func (a attributes) GetOldObject() (runtime.Object, error) { return a.Attributes.GetOldObject(), nil }
func (a attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a attributes) GetUserName() string { return a.GetUserInfo().GetName() }

type namespaceGetter struct{ cluster *cluster }

func (g namespaceGetter) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return g.cluster.namespace(ctx, name)
}

type podLister struct{ cluster *cluster }

func (l podLister) ListPods(_ context.Context, namespace string) ([]*corev1.Pod, error) {
	s, err := l.cluster.ready()
	if err != nil {
		return nil, err
	}
	return s.pods.Pods(namespace).List(labels.Everything())
}

// noMetrics: decisions are counted where requests are.
type noMetrics struct{}

func (noMetrics) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (noMetrics) RecordExemption(podsecurityapi.Attributes)   {}
func (noMetrics) RecordError(bool, podsecurityapi.Attributes) {}
