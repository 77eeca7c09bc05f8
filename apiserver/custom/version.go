package custom

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeversion "k8s.io/apimachinery/pkg/version"

	"wherry.dev/wherry/api/kinds"
)

// version is one version of a definition. Immutable.
type version struct {
	def    *definition
	v      *apiextensionsv1.CustomResourceDefinitionVersion // shared
	gvk    schema.GroupVersionKind
	schema func() (*schemas, error) // made once, on first use
	rules  func() (*rules, error)   // made once, by the first write
}

func newVersion(def *definition, v *apiextensionsv1.CustomResourceDefinitionVersion) *version {
	out := &version{def: def, v: v, gvk: schema.GroupVersionKind{Group: def.crd.Spec.Group, Version: v.Name, Kind: def.crd.Status.AcceptedNames.Kind}}
	out.schema = sync.OnceValues(out.makeSchemas)
	out.rules = sync.OnceValues(out.makeRules)
	return out
}

// The verbs that discovery lists of a definition, and of one that is being deleted.
var (
	allVerbs     = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	leavingVerbs = []string{"delete", "deletecollection", "get", "list", "watch"}
	hiddenVerbs  = []string{"create", "patch", "update"}
)

// leavingRefusal is upstream's answer to whoever creates an object of a definition that is being deleted.
const leavingRefusal = "create not allowed while custom resource definition is terminating"

// kind is the version as the server sees it.
func (v *version) kind() *kinds.Kind {
	crd := v.def.crd
	names := crd.Status.AcceptedNames
	k := &kinds.Kind{
		GroupVersionKind: v.gvk, Plural: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped, Custom: true, Edition: v.def.edition, Verbs: allVerbs,
		New: func() runtime.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(v.gvk)
			return u
		},
		NewList: func() runtime.Object {
			l := &unstructured.UnstructuredList{}
			l.SetGroupVersionKind(v.gvk.GroupVersion().WithKind(names.ListKind))
			return l
		},
		StoragePrefix:    crd.Spec.Group + "/" + names.Plural,
		Hub:              &kinds.Hub{New: func() runtime.Object { return &unstructured.Unstructured{} }, HubIsKind: v.def.storage.gvk, ToHub: v.toHub, FromHub: v.fromHub},
		HubOpens:         true,
		MergeTypes:       v.def.mergeTypes,
		Convert:          v.def.convertObject,
		Schema:           v.published,
		Prune:            v.prune,
		Default:          v.defaults,
		PrepareForCreate: v.prepareCreate,
		PrepareForUpdate: v.prepareUpdate,
		Validate:         v.validate,
		ValidateUpdate:   v.validateUpdate,
		Warnings:         warnings,
		Notices:          v.notices(),
		ValidateName:     kinds.NameIsDNSSubdomain,
		Subresources:     map[string]*kinds.Subresource{},
	}
	if v.def.ending { // nothing new where all is going; finalizers must be removed all the same
		k.Verbs, k.HiddenVerbs, k.NoCreate = leavingVerbs, hiddenVerbs, leavingRefusal
	}
	v.printing(k)
	v.selecting(k)
	if v.hasStatus() {
		k.Subresources["status"] = &kinds.Subresource{Verbs: []string{"get", "patch", "update"}, PrepareForUpdate: prepareStatus, ValidateUpdate: v.validateStatus,
			Resets: []string{"metadata"}, Versions: v.def.groupVersions((*version).hasStatus)}
	}
	if v.v.Subresources != nil && v.v.Subresources.Scale != nil {
		k.Subresources["scale"] = v.scale(v.v.Subresources.Scale)
	}
	return k
}

func (v *version) hasStatus() bool { return v.v.Subresources != nil && v.v.Subresources.Status != nil }

// notices says that the version is deprecated, to everybody who asks for anything of it.
func (v *version) notices() []string {
	if !v.v.Deprecated {
		return nil
	}
	if v.v.DeprecationWarning != nil {
		return []string{*v.v.DeprecationWarning}
	}
	text := fmt.Sprintf("%s %s is deprecated", v.gvk.GroupVersion(), v.gvk.Kind)
	better := ""
	for _, o := range v.def.versions {
		newer := kubeversion.CompareKubeAwareVersionStrings(v.v.Name, o.v.Name) < 0
		if o.v.Served && !o.v.Deprecated && newer && (better == "" || kubeversion.CompareKubeAwareVersionStrings(o.v.Name, better) > 0) {
			better = o.v.Name
		}
	}
	if better != "" {
		text += fmt.Sprintf("; use %s/%s %s", v.gvk.Group, better, v.gvk.Kind)
	}
	return []string{text}
}

func (v *version) prepareCreate(_ context.Context, obj runtime.Object) {
	u := obj.(*unstructured.Unstructured)
	if v.hasStatus() {
		delete(u.Object, "status")
	}
	u.SetGeneration(1)
}

func (v *version) prepareUpdate(_ context.Context, obj, old runtime.Object) {
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	if v.hasStatus() {
		if status, ok := was.Object["status"]; ok {
			u.Object["status"] = runtime.DeepCopyJSONValue(status)
		} else {
			delete(u.Object, "status")
		}
	}
	if !equalBesidesMetadata(u.Object, was.Object) {
		u.SetGeneration(was.GetGeneration() + 1)
	}
}

func equalBesidesMetadata(a, b map[string]any) bool {
	for _, side := range [][2]map[string]any{{a, b}, {b, a}} {
		for k, value := range side[0] {
			if other, ok := side[1][k]; k != "metadata" && (!ok || !apiequality.Semantic.DeepEqual(value, other)) {
				return false
			}
		}
	}
	return true
}

// prepareStatus lets nothing but the status and managed fields change.
func prepareStatus(_ context.Context, obj, old runtime.Object) {
	u, was := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	status, has := u.Object["status"]
	managed, version := u.GetManagedFields(), u.GetResourceVersion()
	u.Object = was.DeepCopy().Object
	delete(u.Object, "status")
	if has {
		u.Object["status"] = status
	}
	u.SetManagedFields(managed)
	u.SetResourceVersion(version)
}

// standardFinalizers are those that need no domain.
var standardFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, "kubernetes"}

// warnings are about new finalizers whose names are no good.
func warnings(_ context.Context, obj, old runtime.Object) (out []string) {
	var had []string
	if old != nil {
		had = old.(*unstructured.Unstructured).GetFinalizers()
	}
	added := slices.DeleteFunc(slices.Clone(obj.(*unstructured.Unstructured).GetFinalizers()), func(f string) bool { return slices.Contains(had, f) })
	slices.Sort(added)
	for _, f := range slices.Compact(added) {
		for _, problem := range validation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, problem))
		}
		if strings.Contains(f, "/") || slices.Contains(standardFinalizers, f) {
			continue
		}
		how := "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
		if strings.Contains(f, ".") {
			how = "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
		}
		out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, how))
	}
	return out
}
