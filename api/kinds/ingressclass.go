package kinds

import (
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// IngressClasses is networking.k8s.io/v1 ingressclasses.
func IngressClasses() *Kind {
	validate := func(c *networkingv1.IngressClass) field.ErrorList {
		f := faults{list: ValidateMeta(&c.ObjectMeta, false, NameIsDNSSubdomain)}
		f.ingressClass(&where{name: "spec"}, &c.Spec)
		return f.list
	}
	return &Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("IngressClass"),
		Plural:           "ingressclasses",
		Singular:         "ingressclass",
		Verbs:            all,
		New:              func() runtime.Object { return new(networkingv1.IngressClass) },
		NewList:          func() runtime.Object { return new(networkingv1.IngressClassList) },
		StoragePrefix:    "ingressclasses",
		Default: defaulting(func(c *networkingv1.IngressClass) {
			if p := c.Spec.Parameters; p != nil && p.Scope == nil {
				p.Scope = ptrTo(networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		}),
		PrepareForCreate: onCreate(func(c *networkingv1.IngressClass) { c.Generation = 1 }),
		PrepareForUpdate: onUpdate(func(c, old *networkingv1.IngressClass) {
			if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
				c.Generation = old.Generation + 1
			}
		}),
		Validate: checking(validate),
		ValidateUpdate: checkingUpdate(func(c, old *networkingv1.IngressClass) field.ErrorList {
			errs := ValidateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
			errs = append(errs, validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, specPath.Child("controller"))...)
			return append(errs, validate(c)...)
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Controller", "string", "Controller that is responsible for handling this class"),
			column("Parameters", "string", "A reference to a resource with additional parameters"),
			ageColumn(),
		},
		Row: row(func(c *networkingv1.IngressClass, now time.Time) []any {
			name, parameters := c.Name, "<none>"
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				name += " (default)"
			}
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if p.APIGroup != nil {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{name, c.Spec.Controller, parameters, age(c.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// maxIngressController bounds the name of a controller, in bytes.
const maxIngressController = 250

func (f *faults) ingressClass(w *where, s *networkingv1.IngressClassSpec) {
	at := w.field("controller")
	if len(s.Controller) > maxIngressController {
		f.tooLong(at, "", maxIngressController)
	}
	f.add(contentvalidation.IsDomainPrefixedPath(at.path(), s.Controller))
	p := s.Parameters
	if p == nil {
		return
	}
	at = w.field("parameters")
	f.objectReference(at, p.APIGroup, p.Kind, p.Name)
	if p.Scope == nil {
		f.required(at.field("scope"), "")
		return
	}
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			f.required(at.field("namespace"), "`parameters.scope` is set to 'Namespace'")
		} else {
			f.dnsLabel(at.field("namespace"), *p.Namespace)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			f.forbidden(at.field("namespace"), "`parameters.scope` is set to 'Cluster'")
		}
	default:
		notSupported(f, at.field("scope"), *p.Scope, []string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace})
	}
}

// objectReference checks a reference to an object of any kind.
func (f *faults) objectReference(w *where, group *string, kind, name string) {
	if group != nil {
		f.dnsSubdomain(w.field("apiGroup"), *group)
	}
	f.neededSegment(w.field("kind"), kind)
	f.neededSegment(w.field("name"), name)
}

// neededSegment checks a word that is needed and stands in a URL's path.
func (f *faults) neededSegment(w *where, value string) {
	if value == "" {
		f.required(w, "")
		return
	}
	f.each(w, value, content.IsPathSegmentName(value))
}
