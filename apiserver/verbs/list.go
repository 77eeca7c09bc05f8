package verbs

import (
	"context"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/store"
)

// List answers with one page of a consistent snapshot.
func List(ctx context.Context, s *Served, r *Request) (Answer, error) {
	o, sel, name, err := s.listOptions(r)
	if err != nil {
		return Answer{}, err
	}
	if s.Kind.Computed {
		return computedAll(ctx, s, sel)
	}
	page, err := s.Store.List(ctx, store.ListOptions{Namespace: r.Info.Namespace, Name: name, ResourceVersion: o.ResourceVersion,
		ResourceVersionMatch: o.ResourceVersionMatch, Limit: o.Limit, Continue: o.Continue, Selector: sel})
	if err != nil {
		return Answer{}, err
	}
	return Answer{Code: http.StatusOK, List: page}, nil
}

// listOptions reads and checks what list, watch and deletecollection select. The name is set when exactly one object can match.
func (s *Served) listOptions(r *Request) (o metav1.ListOptions, sel store.Selector, name string, err error) {
	q := r.Query()
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&q, &o, nil); err != nil {
		return o, sel, "", apierrors.NewBadRequest(err.Error())
	}
	if r.Info.Verb == "watch" {
		o.Watch = true
	}
	sel, name, err = s.selector(o.LabelSelector, o.FieldSelector)
	if err != nil {
		return o, sel, "", err
	}
	if r.Info.Name != "" { // a watch on one object by its path (deprecated), or a selected name
		if name != "" && name != r.Info.Name {
			return o, sel, "", apierrors.NewBadRequest("field selector metadata.name does not match the requested name")
		}
		name = r.Info.Name
	}
	// The validator wants the internal type; only the fields it looks at are filled in.
	in := internalversion.ListOptions{Watch: o.Watch, ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Continue: o.Continue, Limit: o.Limit, SendInitialEvents: o.SendInitialEvents, AllowWatchBookmarks: o.AllowWatchBookmarks}
	if errs := internalvalidation.ValidateListOptions(&in, true); len(errs) > 0 {
		return o, sel, "", apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return o, sel, name, nil
}

// selector parses selectors; a label or field that does not exist is a 400.
func (s *Served) selector(label, field string) (sel store.Selector, name string, err error) {
	if label != "" {
		l, err := labels.Parse(label)
		if err != nil {
			return sel, "", apierrors.NewBadRequest(err.Error())
		}
		if !l.Empty() {
			sel.Labels = l
		}
	}
	if field == "" {
		return sel, "", nil
	}
	f, err := fields.ParseSelector(field)
	if err != nil {
		return sel, "", apierrors.NewBadRequest(err.Error())
	}
	for _, req := range f.Requirements() {
		if !s.selectable(req.Field) {
			return sel, "", apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", req.Field))
		}
	}
	if f.Empty() {
		return sel, "", nil
	}
	if n, ok := f.RequiresExactMatch("metadata.name"); ok {
		name = n
	}
	sel.Fields, sel.FieldsOf = f, s.fieldsOf
	return sel, name, nil
}

func (s *Served) selectable(label string) bool {
	if label == "metadata.name" || label == "metadata.namespace" && s.Kind.Namespaced {
		return true
	}
	for _, l := range s.Kind.FieldLabels {
		if l == label {
			return true
		}
	}
	return false
}

// fieldsOf returns the selectable fields of a stored object.
func (s *Served) fieldsOf(o *store.Object) fields.Set {
	obj, err := s.Type.Served(o)
	if err != nil {
		return fields.Set{}
	}
	if s.Kind.SelectableFields != nil {
		return s.Kind.SelectableFields(obj)
	}
	m, err := accessor(obj)
	if err != nil {
		return fields.Set{}
	}
	return fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
}

// longestWatch is what a client may ask for, in seconds: a year. Some centuries would come out as a time in the past.
const longestWatch = 365 * 24 * 60 * 60

// timeout is how long a watch may last.
func (s *Served) timeout(o metav1.ListOptions, random func() float64) time.Duration {
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		return time.Duration(min(*o.TimeoutSeconds, longestWatch)) * time.Second
	}
	return time.Duration(float64(s.WatchTimeout) * (1 + random()))
}
