package kinds

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/validation"
	"k8s.io/kube-aggregator/pkg/client/applyconfiguration"
)

// APIServices is apiregistration.k8s.io/v1 apiservices: which server answers for a group and version. Those of other servers are
// served by apiserver/aggregate, which also keeps one object for each group and version of our own.
func APIServices() *Kind {
	return &Kind{
		GroupVersionKind: apiregistrationv1.SchemeGroupVersion.WithKind("APIService"),
		Plural:           "apiservices",
		Singular:         "apiservice",
		Categories:       []string{"api-extensions"},
		Verbs:            all,
		New:              func() runtime.Object { return new(apiregistrationv1.APIService) },
		NewList:          func() runtime.Object { return new(apiregistrationv1.APIServiceList) },
		StoragePrefix:    "apiregistration.k8s.io/apiservices",
		StoredAsJSON:     true,
		MergeTypes: func() (managedfields.TypeConverter, error) {
			s := runtime.NewScheme()
			if err := apiregistrationv1.AddToScheme(s); err != nil {
				return nil, fmt.Errorf("register APIService: %w", err)
			}
			return applyconfiguration.NewTypeConverter(s), nil
		},
		Default: defaulting(apiregistrationv1.SetObjectDefaults_APIService),
		PrepareForCreate: onCreate(func(s *apiregistrationv1.APIService) {
			s.Status = apiregistrationv1.APIServiceStatus{}
			if s.Spec.Service == nil {
				helper.SetAPIServiceCondition(s, helper.NewLocalAvailableAPIServiceCondition())
			}
		}),
		PrepareForUpdate: onUpdate(func(s, old *apiregistrationv1.APIService) { s.Status = *old.Status.DeepCopy() }),
		Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
			s, err := internalAPIService(obj)
			if err != nil {
				return field.ErrorList{field.InternalError(nil, err)}
			}
			return validation.ValidateAPIService(ctx, s)
		},
		ValidateUpdate: apiServiceUpdate(validation.ValidateAPIServiceUpdate),
		ValidateName:   NameIsPathSegment,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(s, old *apiregistrationv1.APIService) {
					s.Spec = *old.Spec.DeepCopy()
					s.Labels, s.Annotations, s.Finalizers, s.OwnerReferences = old.Labels, old.Annotations, old.Finalizers, old.OwnerReferences
				}),
				ValidateUpdate: apiServiceUpdate(validation.ValidateAPIServiceStatusUpdate),
				Resets:         []string{"metadata"},
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Service", "string", "The reference to the service that hosts this API endpoint."),
			column("Available", "string", "Whether this service is available."),
			ageColumn(),
		},
		Row: row(func(s *apiregistrationv1.APIService, now time.Time) []any {
			service := "Local"
			if s.Spec.Service != nil {
				service = s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
			}
			return []any{s.Name, service, printAvailable(s), age(s.CreationTimestamp, now)}
		}),
	}
}

// printAvailable is the condition, with its reason when it is not true.
func printAvailable(s *apiregistrationv1.APIService) string {
	c := helper.GetAPIServiceConditionByType(s, apiregistrationv1.Available)
	switch {
	case c == nil:
		return string(apiregistrationv1.ConditionUnknown)
	case c.Status == apiregistrationv1.ConditionTrue || c.Reason == "":
		return string(c.Status)
	}
	return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
}

// internalAPIService is obj as upstream's validation wants it.
func internalAPIService(obj runtime.Object) (*apiregistration.APIService, error) {
	in, out := obj.(*apiregistrationv1.APIService).DeepCopy(), &apiregistration.APIService{} // the conversion shares memory with what it is given
	if in.Spec.Service != nil && in.Spec.Service.Port == nil {
		apiregistrationv1.SetDefaults_ServiceReference(in.Spec.Service) // the internal type has no place for "unset"
	}
	if err := apiregistrationv1.Convert_v1_APIService_To_apiregistration_APIService(in, out, nil); err != nil {
		return nil, fmt.Errorf("convert APIService %s: %w", in.Name, err)
	}
	return out, nil
}

func apiServiceUpdate(check func(context.Context, *apiregistration.APIService, *apiregistration.APIService) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
		s, err := internalAPIService(obj)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		was, err := internalAPIService(old)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return check(ctx, s, was)
	}
}
