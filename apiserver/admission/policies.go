package admission

import (
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// A policy without a binding does nothing: the bindings give these plugins their work.

// newMutatingPolicies lets CEL rules of the cluster change objects (MutatingAdmissionPolicy, KEP-3962).
func newMutatingPolicies(a authorizer.UnconditionalAuthorizer) admission.Interface {
	return &mutatingHooks{hooks{authorizer: a,
		watched: func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Admissionregistration().V1().MutatingAdmissionPolicyBindings().Informer()
		},
		fresh:   func() (admission.Interface, error) { return mutating.NewPlugin(nil) },
		schemas: true}}
}

// newValidatingPolicies lets CEL rules of the cluster refuse objects (ValidatingAdmissionPolicy, KEP-3488).
func newValidatingPolicies(a authorizer.UnconditionalAuthorizer) admission.Interface {
	return &validatingHooks{hooks{authorizer: a,
		watched: func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Admissionregistration().V1().ValidatingAdmissionPolicyBindings().Informer()
		},
		fresh: func() (admission.Interface, error) { return validating.NewPlugin(nil) }}}
}
