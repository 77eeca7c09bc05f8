package kinds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	applyconfiguration "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// CustomResourceDefinitions is apiextensions.k8s.io/v1 customresourcedefinitions (KEP-95). What they define is served by
// apiserver/custom.
func CustomResourceDefinitions() *Kind {
	return &Kind{
		GroupVersionKind: apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"),
		Plural:           "customresourcedefinitions",
		Singular:         "customresourcedefinition",
		ShortNames:       []string{"crd", "crds"},
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(apiextensionsv1.CustomResourceDefinition) },
		NewList:          func() runtime.Object { return new(apiextensionsv1.CustomResourceDefinitionList) },
		StoragePrefix:    "apiextensions.k8s.io/customresourcedefinitions",
		MergeTypes:       definitionMergeTypes,
		Default:          defaulting(apiextensionsv1.SetObjectDefaults_CustomResourceDefinition),
		PrepareForCreate: onCreate(func(d *apiextensionsv1.CustomResourceDefinition) {
			d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			d.Generation = 1
			rememberStorage(d)
		}),
		PrepareForUpdate: onUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
			d.Status = *old.Status.DeepCopy()
			if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
				d.Generation = old.Generation + 1
			}
			rememberStorage(d)
		}),
		Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
			d, err := internalDefinition(obj)
			if err != nil {
				return field.ErrorList{field.InternalError(nil, err)}
			}
			return validation.ValidateCustomResourceDefinition(ctx, d)
		},
		ValidateUpdate: definitionUpdate(validation.ValidateCustomResourceDefinitionUpdate),
		Warnings:       definitionWarnings,
		ValidateName:   NameIsDNSSubdomain,
		Terminate: func(obj runtime.Object) {
			d := obj.(*apiextensionsv1.CustomResourceDefinition)
			now := metav1.NewTime(time.Now().Truncate(time.Second))
			d.DeletionTimestamp = &now // by itself, and not by the verb: the generation stays, as upstream's
			if !slices.Contains(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
				d.Finalizers = append(d.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
			}
			apihelpers.SetCRDCondition(d, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
				Reason: "InstanceDeletionPending", Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"})
		},
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
					d.Spec = old.Spec // the metadata is the writer's, as upstream's: the server takes its finalizer away through the status
				}),
				ValidateUpdate: definitionUpdate(validation.ValidateUpdateCustomResourceDefinitionStatus),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Scope", "string", "Cluster/Namespaced"),
			column("Versions", "string", "Served versions"),
			column("Created At", "date", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
			wideColumn("Group", "string", "API group"),
			wideColumn("Kind", "string", "CustomResource kind"),
			wideColumn("ShortNames", "string", "Short names"),
			wideColumn("Established", "boolean", "Established status"),
		},
		Row: row(func(d *apiextensionsv1.CustomResourceDefinition, _ time.Time) []any {
			var versions []string
			for _, v := range d.Spec.Versions {
				switch {
				case v.Served && v.Storage:
					versions = append(versions, v.Name+"(storage)")
				case v.Served:
					versions = append(versions, v.Name)
				}
			}
			slices.Sort(versions)
			return []any{d.Name, string(d.Spec.Scope), strings.Join(versions, ","), d.CreationTimestamp.UTC().Format(time.RFC3339), d.Spec.Group, d.Spec.Names.Kind,
				strings.Join(d.Spec.Names.ShortNames, ","), apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established)}
		}),
	}
}

// definitionMergeTypes is the merge schema of definitions.
func definitionMergeTypes() (managedfields.TypeConverter, error) {
	s := runtime.NewScheme()
	if err := apiextensionsv1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register definitions: %w", err)
	}
	return applyconfiguration.NewTypeConverter(s), nil
}

// rememberStorage notes that objects are stored in the storage version from now on.
func rememberStorage(d *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range d.Spec.Versions {
		if v.Storage {
			if !slices.Contains(d.Status.StoredVersions, v.Name) {
				d.Status.StoredVersions = append(d.Status.StoredVersions, v.Name)
			}
			return
		}
	}
}

// internalDefinition is obj as upstream's validation wants it.
func internalDefinition(obj runtime.Object) (*apiextensions.CustomResourceDefinition, error) {
	out := &apiextensions.CustomResourceDefinition{}
	in := obj.(*apiextensionsv1.CustomResourceDefinition).DeepCopy() // the conversion shares memory with what it is given
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(in, out, nil); err != nil {
		return nil, fmt.Errorf("convert CustomResourceDefinition %s: %w", in.Name, err)
	}
	return out, nil
}

func definitionUpdate(check func(context.Context, *apiextensions.CustomResourceDefinition, *apiextensions.CustomResourceDefinition) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
		d, err := internalDefinition(obj)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		was, err := internalDefinition(old)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return check(ctx, d, was)
	}
}

// definitionWarnings are about what a schema says in vain. What it said before is not warned of again.
func definitionWarnings(_ context.Context, obj, old runtime.Object) (out []string) {
	var had []string
	if old != nil {
		had = oddities(old)
	}
	for _, text := range oddities(obj) {
		if !slices.Contains(had, text) {
			out = append(out, text)
		}
	}
	return out
}

// oddities are formats that nobody knows, in the order of the schema, and then sets of what cannot be compared.
func oddities(obj runtime.Object) []string {
	var formats, sets []string
	version := environment.DefaultCompatibilityVersion()
	for _, v := range obj.(*apiextensionsv1.CustomResourceDefinition).Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		eachSchema(v.Schema.OpenAPIV3Schema, func(s *apiextensionsv1.JSONSchemaProps) {
			if s.Format != "" {
				one := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
				for _, f := range schemavalidation.GetUnrecognizedFormats(one, version) {
					formats = append(formats, fmt.Sprintf("unrecognized format %q", f))
				}
			}
			if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
				switch t := s.Items.Schema.Type; t {
				case "object", "array":
					sets = append(sets, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", t))
				}
			}
		})
	}
	slices.Sort(sets)
	return append(formats, slices.Compact(sets)...)
}

// eachSchema calls f for s and every schema in it. Properties come by name.
func eachSchema(s *apiextensionsv1.JSONSchemaProps, f func(*apiextensionsv1.JSONSchemaProps)) {
	f(s)
	if s.Items != nil && s.Items.Schema != nil {
		eachSchema(s.Items.Schema, f)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		eachSchema(s.AdditionalProperties.Schema, f)
	}
	for _, list := range [][]apiextensionsv1.JSONSchemaProps{s.AllOf, s.OneOf, s.AnyOf} {
		for i := range list {
			eachSchema(&list[i], f)
		}
	}
	if s.Not != nil {
		eachSchema(s.Not, f)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		eachSchema(&p, f)
	}
}
