package kinds

import (
	"fmt"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// SystemFlowSchemas returns the flow schemas that the server makes: those it cannot do without, and those that upstream
// suggests. The caller owns them.
func SystemFlowSchemas() (mandatory, suggested []*flowcontrolv1.FlowSchema) {
	return copies(bootstrap.MandatoryFlowSchemas), copies(bootstrap.SuggestedFlowSchemas)
}

func copies[T interface{ DeepCopy() T }](objects []T) []T {
	list := make([]T, len(objects))
	for i, o := range objects {
		list[i] = o.DeepCopy()
	}
	return list
}

// FlowSchemas is flowcontrol.apiserver.k8s.io/v1 flowschemas (KEP-1040).
func FlowSchemas() *Kind {
	return &Kind{
		GroupVersionKind: flowcontrolv1.SchemeGroupVersion.WithKind("FlowSchema"),
		Plural:           "flowschemas",
		Singular:         "flowschema",
		Verbs:            all,
		New:              func() runtime.Object { return new(flowcontrolv1.FlowSchema) },
		NewList:          func() runtime.Object { return new(flowcontrolv1.FlowSchemaList) },
		StoragePrefix:    "flowschemas",
		Default:          defaulting(func(s *flowcontrolv1.FlowSchema) { setIfZero(&s.Spec.MatchingPrecedence, 1000) }),
		PrepareForCreate: onCreate(func(s *flowcontrolv1.FlowSchema) {
			s.Status = flowcontrolv1.FlowSchemaStatus{}
			s.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(s, old *flowcontrolv1.FlowSchema) {
			if !apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
				s.Generation = old.Generation + 1
			}
			s.Status = old.Status
		}),
		Validate: checking(validateFlowSchema),
		ValidateUpdate: checkingUpdate(func(s, old *flowcontrolv1.FlowSchema) field.ErrorList {
			return append(ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateFlowSchema(s)...)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(s, old *flowcontrolv1.FlowSchema) {
					s.ObjectMeta = metaForStatus(&s.ObjectMeta, &old.ObjectMeta)
					s.Spec = old.Spec
				}),
				ValidateUpdate: checkingUpdate(func(s, old *flowcontrolv1.FlowSchema) field.ErrorList {
					return append(ValidateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateFlowSchemaStatus(&s.Status)...)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("PriorityLevel", "string", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			column("MatchingPrecedence", "string", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["matchingPrecedence"]),
			column("DistinguisherMethod", "string", flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()["distinguisherMethod"]),
			ageColumn(),
			column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration"),
		},
		Row: row(func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
			method, dangling := "<none>", "?"
			if s.Spec.DistinguisherMethod != nil {
				method = string(s.Spec.DistinguisherMethod.Type)
			}
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					dangling = string(c.Status)
					break
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(s.CreationTimestamp, now), dangling}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// metaForStatus is old, but for the managed fields, in which a write of the status is noted.
func metaForStatus(m, old *metav1.ObjectMeta) metav1.ObjectMeta {
	kept := *old
	kept.ManagedFields = m.ManagedFields
	return kept
}

// maxPrecedence is the last precedence.
const maxPrecedence = 10000

var (
	distinguishers = []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
	flowVerbs      = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
)

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	f := faults{list: ValidateMeta(&s.ObjectMeta, false, NameIsDNSSubdomain)}
	w := &where{name: "spec"}
	precedence := w.field("matchingPrecedence")
	switch n := s.Spec.MatchingPrecedence; {
	case n <= 0:
		f.invalid(precedence, n, "must be a positive value")
	case n > maxPrecedence:
		f.invalid(precedence, n, fmt.Sprintf("must not be greater than %v", maxPrecedence))
	case n == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		f.invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if d := s.Spec.DistinguisherMethod; d != nil && !slices.Contains(distinguishers, d.Type) {
		f.keep(field.NotSupported(w.field("distinguisherMethod").field("type").path(), d, distinguishers))
	}
	if level := w.field("priorityLevelConfiguration").field("name"); s.Spec.PriorityLevelConfiguration.Name == "" {
		f.required(level, "must reference a priority level")
	} else {
		f.dnsSubdomain(level, s.Spec.PriorityLevelConfiguration.Name)
	}
	for i := range s.Spec.Rules {
		f.flowRule(w.field("rules").at(i), &s.Spec.Rules[i])
	}
	for _, m := range bootstrap.MandatoryFlowSchemas {
		if m.Name == s.Name && !apiequality.Semantic.DeepEqual(s.Spec, m.Spec) {
			f.invalid(w, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name))
		}
	}
	f.add(validateFlowSchemaStatus(&s.Status))
	return f.list
}

func validateFlowSchemaStatus(s *flowcontrolv1.FlowSchemaStatus) field.ErrorList {
	types := make([]string, len(s.Conditions))
	for i := range s.Conditions {
		types[i] = string(s.Conditions[i].Type)
	}
	return validateConditionTypes(types)
}

// validateConditionTypes wants each condition of a status to have a type of its own.
func validateConditionTypes(types []string) field.ErrorList {
	var f faults
	list := (&where{name: "status"}).field("conditions")
	for i, t := range types {
		at := list.at(i).field("type")
		if slices.Contains(types[:i], t) {
			f.duplicate(at, t)
		}
		f.needs(at, t)
	}
	return f.list
}

func (f *faults) flowRule(w *where, r *flowcontrolv1.PolicyRulesWithSubjects) {
	if len(r.Subjects) == 0 {
		f.required(w.field("subjects"), "subjects must contain at least one value")
	}
	for i := range r.Subjects {
		f.flowSubject(w.field("subjects").at(i), &r.Subjects[i])
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		f.required(w, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i := range r.ResourceRules {
		f.flowResources(w.field("resourceRules").at(i), &r.ResourceRules[i])
	}
	for i := range r.NonResourceRules {
		f.flowPaths(w.field("nonResourceRules").at(i), &r.NonResourceRules[i])
	}
}

func (f *faults) flowSubject(w *where, s *flowcontrolv1.Subject) {
	account, user, group := w.field("serviceAccount"), w.field("user"), w.field("group")
	switch s.Kind {
	case flowcontrolv1.SubjectKindServiceAccount:
		if s.ServiceAccount == nil {
			f.required(account, "serviceAccount is required when subject kind is 'ServiceAccount'")
		} else {
			f.flowAccount(account, s.ServiceAccount)
		}
	case flowcontrolv1.SubjectKindUser:
		if s.User == nil {
			f.required(user, "user is required when subject kind is 'User'")
		} else {
			f.needs(user.field("name"), s.User.Name)
		}
	case flowcontrolv1.SubjectKindGroup:
		if s.Group == nil {
			f.required(group, "group is required when subject kind is 'Group'")
		} else {
			f.needs(group.field("name"), s.Group.Name)
		}
	default:
		notSupported(f, w.field("kind"), s.Kind, []flowcontrolv1.SubjectKind{
			flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser})
		return
	}
	if s.ServiceAccount != nil && s.Kind != flowcontrolv1.SubjectKindServiceAccount {
		f.forbidden(account, "serviceAccount is forbidden when subject kind is not 'ServiceAccount'")
	}
	if s.User != nil && s.Kind != flowcontrolv1.SubjectKindUser {
		f.forbidden(user, "user is forbidden when subject kind is not 'User'")
	}
	if s.Group != nil && s.Kind != flowcontrolv1.SubjectKindGroup {
		f.forbidden(group, "group is forbidden when subject kind is not 'Group'")
	}
}

func (f *faults) flowAccount(w *where, a *flowcontrolv1.ServiceAccountSubject) {
	switch a.Name {
	case "":
		f.required(w.field("name"), "")
	case flowcontrolv1.NameAll:
	default:
		f.dnsSubdomain(w.field("name"), a.Name)
	}
	if a.Namespace == "" {
		f.required(w.field("namespace"), "must specify namespace for service account")
	} else {
		f.dnsLabel(w.field("namespace"), a.Namespace)
	}
}

const flowWildcard = "*" // of verbs, groups, resources, namespaces and paths

func (f *faults) flowVerbs(w *where, verbs []string) {
	switch {
	case len(verbs) == 0:
		f.required(w, "verbs must contain at least one value")
	case slices.Contains(verbs, flowWildcard):
		f.aloneIfWildcard(w, verbs, "verbs")
	case slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(flowVerbs, v) }):
		f.keep(field.NotSupported(w.path(), verbs, flowVerbs))
	}
}

func (f *faults) aloneIfWildcard(w *where, list []string, what string) {
	if len(list) > 1 && slices.Contains(list, flowWildcard) {
		f.invalid(w, list, "if '*' is present, must not specify other "+what)
	}
}

func (f *faults) flowResources(w *where, r *flowcontrolv1.ResourcePolicyRule) {
	f.flowVerbs(w.field("verbs"), r.Verbs)
	if len(r.APIGroups) == 0 {
		f.required(w.field("apiGroups"), "resource rules must supply at least one api group")
	}
	f.aloneIfWildcard(w.field("apiGroups"), r.APIGroups, "api groups")
	if len(r.Resources) == 0 {
		f.required(w.field("resources"), "resource rules must supply at least one resource")
	}
	f.aloneIfWildcard(w.field("resources"), r.Resources, "resources")
	at := w.field("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		f.required(at, "resource rules that are not cluster scoped must supply at least one namespace")
	case slices.Contains(r.Namespaces, flowWildcard):
		f.aloneIfWildcard(at, r.Namespaces, "namespaces")
	default:
		for i, n := range r.Namespaces {
			for _, sentence := range validation.IsDNS1123Label(n) {
				f.invalid(at.at(i), n, "each member of this list must be '*' or a DNS-1123 label; "+sentence)
			}
		}
	}
}

func (f *faults) flowPaths(w *where, r *flowcontrolv1.NonResourcePolicyRule) {
	f.flowVerbs(w.field("verbs"), r.Verbs)
	at := w.field("nonResourceURLs")
	switch {
	case len(r.NonResourceURLs) == 0:
		f.required(at, "nonResourceURLs must contain at least one value")
	case slices.Contains(r.NonResourceURLs, flowWildcard):
		f.aloneIfWildcard(at, r.NonResourceURLs, "non-resource URLs")
	default:
		for i, url := range r.NonResourceURLs {
			if wrong := wrongFlowPath(url); wrong != "" {
				f.invalid(at.at(i), url, wrong)
			}
		}
	}
}

// wrongFlowPath says what is wrong with a path that may end in "/*".
func wrongFlowPath(url string) string {
	stars := strings.Count(url, "*")
	switch {
	case url == "":
		return "must not be empty"
	case url == "/":
		return ""
	case !strings.HasPrefix(url, "/"):
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case stars > 1, stars == 1 && !strings.HasSuffix(url, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
