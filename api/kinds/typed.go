package kinds

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The functions of this file let the rules of a kind be written over its own type: each wraps one rule into the
// signature that Kind asks for. Handing an object of another type to a Kind is a bug of the caller, and panics.

// all lists the verbs of an ordinary stored resource, as discovery does.
var all = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// noCollectionDelete lists the verbs of namespaces, which are deleted one by one.
var noCollectionDelete = []string{"create", "delete", "get", "list", "patch", "update", "watch"}

// viewVerbs are the verbs of a subresource that is a view of the stored object.
var viewVerbs = []string{"get", "patch", "update"}

// proxyVerbs are the verbs of the proxy subresources, one for each HTTP method passed on.
var proxyVerbs = []string{"create", "delete", "get", "patch", "update"}

func defaulting[T runtime.Object](f func(T)) func(runtime.Object) {
	return func(obj runtime.Object) { f(obj.(T)) }
}

func onCreate[T runtime.Object](f func(T)) func(context.Context, runtime.Object) {
	return func(_ context.Context, obj runtime.Object) { f(obj.(T)) }
}

func onUpdate[T runtime.Object](f func(obj, old T)) func(context.Context, runtime.Object, runtime.Object) {
	return func(_ context.Context, obj, old runtime.Object) { f(obj.(T), old.(T)) }
}

func checking[T runtime.Object](f func(T) field.ErrorList) func(context.Context, runtime.Object) field.ErrorList {
	return func(_ context.Context, obj runtime.Object) field.ErrorList { return f(obj.(T)) }
}

func checkingUpdate[T runtime.Object](f func(obj, old T) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return func(_ context.Context, obj, old runtime.Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

// warningsOf wraps f, whose old is the zero T on create.
func warningsOf[T runtime.Object](f func(obj, old T) []string) func(context.Context, runtime.Object, runtime.Object) []string {
	return func(_ context.Context, obj, old runtime.Object) []string {
		if old == nil {
			var none T
			return f(obj.(T), none)
		}
		return f(obj.(T), old.(T))
	}
}

func row[T runtime.Object](f func(T, time.Time) []any) func(runtime.Object, time.Time) []any {
	return func(obj runtime.Object, now time.Time) []any { return f(obj.(T), now) }
}

func selecting[T runtime.Object](f func(T) fields.Set) func(runtime.Object) fields.Set {
	return func(obj runtime.Object) fields.Set { return f(obj.(T)) }
}

// objectMeta returns the metadata of an object of k8s.io/api, which all of them carry as a plain metav1.ObjectMeta.
func objectMeta(obj runtime.Object) *metav1.ObjectMeta {
	return obj.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta)
}

// namespacedMetaFields is the SelectableFields of namespaced kinds with no selectable fields of their own.
func namespacedMetaFields(obj runtime.Object) fields.Set { return metaFields(objectMeta(obj), true, 0) }

// clusterMetaFields is the SelectableFields of cluster-scoped kinds with no selectable fields of their own.
func clusterMetaFields(obj runtime.Object) fields.Set { return metaFields(objectMeta(obj), false, 0) }
