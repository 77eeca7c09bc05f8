package kinds

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ControllerRevisions is apps/v1 controllerrevisions: what stateful and daemon sets were once, to go back to.
func ControllerRevisions() *Kind {
	return &Kind{
		GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("ControllerRevision"),
		Plural:           "controllerrevisions",
		Singular:         "controllerrevision",
		Namespaced:       true,
		Verbs:            all,
		New:              func() runtime.Object { return new(appsv1.ControllerRevision) },
		NewList:          func() runtime.Object { return new(appsv1.ControllerRevisionList) },
		StoragePrefix:    "controllerrevisions",
		Validate: checking(func(r *appsv1.ControllerRevision) field.ErrorList {
			var f faults
			f.newMeta(&r.ObjectMeta, NameIsDNSSubdomain)
			f.notNegative(&where{name: "revision"}, r.Revision)
			f.revisionData(&where{name: "data"}, r.Data.Raw)
			return f.list
		}),
		ValidateUpdate: checkingUpdate(func(r, old *appsv1.ControllerRevision) field.ErrorList {
			var f faults
			f.changedMeta(&r.ObjectMeta, &old.ObjectMeta)
			f.newMeta(&r.ObjectMeta, NameIsDNSSubdomain)
			f.notNegative(&where{name: "revision"}, r.Revision)
			f.immutable(&where{name: "data"}, r.Data, old.Data)
			return f.list
		}),
		ValidateName:     NameIsDNSSubdomain,
		FieldLabels:      metaFieldLabels,
		SelectableFields: namespacedMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Controller", "string", "Controller of the object"),
			column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			ageColumn(),
		},
		Row: row(func(r *appsv1.ControllerRevision, now time.Time) []any {
			return []any{r.Name, controllerText(r), r.Revision, age(r.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

// controllerText prints whose an object is as "statefulset.apps/web".
func controllerText(obj metav1.Object) string {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil {
		return "<none>"
	}
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	if kind.Empty() {
		return ref.Name
	}
	return strings.ToLower(kind.String()) + "/" + ref.Name
}

func (f *faults) revisionData(w *where, raw []byte) {
	if raw == nil {
		f.required(w, "data is mandatory")
		return
	}
	var data any
	switch err := json.Unmarshal(raw, &data); {
	case err != nil:
		f.invalid(w, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))
	case data == nil:
		f.required(w, "data is mandatory")
	default:
		if _, ok := data.(map[string]any); !ok {
			f.required(w, "data must be a valid JSON object")
		}
	}
}
