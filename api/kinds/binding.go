package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bindings is core/v1 bindings: never stored; creating one gives the pod of its name to the node that it targets, as
// the binding subresource of pods does.
func Bindings() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Binding"),
		Plural:           "bindings",
		Singular:         "binding",
		Namespaced:       true,
		Verbs:            []string{"create"},
		New:              func() runtime.Object { return new(corev1.Binding) },
		Validate:         checking(ValidateBinding),
		ValidateName:     NameIsDNSSubdomain,
	}
}

// ValidateBinding checks what a pod is to be bound to.
func ValidateBinding(b *corev1.Binding) (errs field.ErrorList) {
	target := field.NewPath("target")
	if b.Target.Kind != "" && b.Target.Kind != "Node" {
		errs = append(errs, field.NotSupported(target.Child("kind"), b.Target.Kind, []string{"Node", "<empty>"}))
	}
	if b.Target.Name == "" {
		errs = append(errs, field.Required(target.Child("name"), ""))
	} else {
		for _, sentence := range NameIsDNSSubdomain(b.Target.Name, false) {
			errs = append(errs, field.Invalid(target.Child("name"), b.Target.Name, sentence))
		}
	}
	return errs
}
