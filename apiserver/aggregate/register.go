package aggregate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/discovery"
)

// Managed is the label of APIServices that the server keeps itself: those of its built-in groups are put right at the start and left
// to administrators then, those of definitions are kept as they should be always. Who takes the label away keeps the object.
const (
	Managed        = "kube-aggregator.kubernetes.io/automanaged"
	managedAtStart = "onstart"
	managedAlways  = "true"
)

// localServices are the APIServices of what the server serves itself, by name.
func localServices(list []*kinds.Kind) map[string]*apiregistrationv1.APIService {
	out := map[string]*apiregistrationv1.APIService{}
	for _, k := range list {
		gv := k.GroupVersionKind.GroupVersion()
		name := gv.Version + "." + gv.Group
		if out[name] != nil {
			continue
		}
		p, registered := discovery.PriorityOf(k)
		if !registered {
			continue
		}
		managed := managedAtStart
		if k.Custom {
			managed = managedAlways
		}
		out[name] = &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Managed: managed}},
			Spec: apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version}}
	}
	return out
}

// deed is what is to be done about an APIService.
type deed int

const (
	leave deed = iota
	create
	update
	remove
)

// decide says how to get from have to want; nil means none. put says that it was put right before, atStart that it was there when
// the server started. Pure.
func decide(want, have *apiregistrationv1.APIService, put, atStart bool) deed {
	managed := func(s *apiregistrationv1.APIService) string {
		if s == nil {
			return ""
		}
		return s.Labels[Managed]
	}
	switch {
	case want == nil && have == nil:
		return leave
	case managed(want) == managedAtStart && put: // an administrator's wish since
		return leave
	case have == nil:
		return create
	case managed(have) != managedAtStart && managed(have) != managedAlways: // somebody's own
		return leave
	case managed(have) == managedAtStart && (put || !atStart):
		return leave
	case want == nil:
		return remove
	case apiequality.Semantic.DeepEqual(have.Spec, want.Spec):
		return leave
	}
	return update
}

// register does what decide says.
func (a *Aggregator) register(ctx context.Context, name string, have *apiregistrationv1.APIService) error {
	a.mu.Lock()
	want, put, known := a.wanted[name], a.synced[name], a.wanted != nil
	a.mu.Unlock()
	if !known {
		return nil
	}
	var err error
	switch decide(want, have, put, a.atStart[name]) {
	case create:
		// A copy: encoding sets the type for a moment, and KindsChanged compares meanwhile.
		if err = a.rest.Post().Resource(resource.Resource).Body(want.DeepCopy()).Do(ctx).Error(); apierrors.IsAlreadyExists(err) {
			err = nil // the informer will tell
		}
	case update:
		next := have.DeepCopy()
		next.Spec = want.Spec
		err = a.rest.Put().Resource(resource.Resource).Name(name).Body(next).Do(ctx).Error()
	case remove:
		err = a.rest.Delete().Resource(resource.Resource).Name(name).Body(deleteOptions(have)).Do(ctx).Error()
	}
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("keep APIService %s: %w", name, err)
	}
	a.mu.Lock()
	a.synced[name] = true
	a.mu.Unlock()
	return nil
}

// Unregistered returns an error that names the APIServices of built-in groups that have not been put right yet, nil when all have.
func (a *Aggregator) Unregistered() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var missing []string
	for name, s := range a.wanted {
		if s.Labels[Managed] == managedAtStart && !a.synced[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 && a.wanted != nil {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("missing APIService: %v", missing)
}

// reorder hands the server the priorities of a local APIService, if they are others by an administrator's wish. s is nil when it is gone.
func (a *Aggregator) reorder(name string, s *apiregistrationv1.APIService) {
	a.mu.Lock()
	defer a.mu.Unlock()
	version, group, _ := strings.Cut(name, ".")
	gv := schema.GroupVersion{Group: group, Version: version}
	was, changed := a.order[gv]
	want := a.wanted[name]
	wish := want != nil && s != nil && s.Spec.Service == nil && (s.Spec.GroupPriorityMinimum != want.Spec.GroupPriorityMinimum || s.Spec.VersionPriority != want.Spec.VersionPriority)
	var is discovery.Priority
	if wish {
		is = discovery.Priority{Group: s.Spec.GroupPriorityMinimum, Version: s.Spec.VersionPriority}
	}
	if changed == wish && was == is {
		return
	}
	next := maps.Clone(a.order)
	if wish {
		if next == nil {
			next = map[schema.GroupVersion]discovery.Priority{}
		}
		next[gv] = is
	} else {
		delete(next, gv)
	}
	a.order = next
	a.Server.SetPriorities(next) // under mu, so that the newest comes last
}
