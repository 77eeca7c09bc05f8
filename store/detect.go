package store

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
)

// detector finds out who changed an object that everybody shares, by keeping a copy of each and comparing when the
// object leaves the cache and when the store closes. A nil detector does nothing.
type detector struct {
	resource string
	report   func(string)
	mu       sync.Mutex
	copies   map[string]guarded // by key; guarded by mu
}

type guarded struct {
	object *Object
	copy   runtime.Object
}

func newDetector(resource string, report func(string)) *detector {
	if report == nil {
		return nil
	}
	return &detector{resource: resource, report: report, copies: map[string]guarded{}}
}

// add guards o from now on, in place of what its key held.
func (d *detector) add(o *Object) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compare(o.Key)
	d.copies[o.Key] = guarded{o, o.Object.DeepCopyObject()}
}

func (d *detector) remove(key string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compare(key)
	delete(d.copies, key)
}

// replace guards exactly objects.
func (d *detector) replace(objects []*Object) {
	if d == nil {
		return
	}
	d.check()
	d.mu.Lock()
	clear(d.copies)
	d.mu.Unlock()
	for _, o := range objects {
		d.add(o)
	}
}

// check compares everything now.
func (d *detector) check() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.copies {
		d.compare(key)
	}
}

// compare reports the object at key if it is not what it was. Callers hold mu.
func (d *detector) compare(key string) {
	g, ok := d.copies[key]
	if ok && !equality.Semantic.DeepEqual(g.object.Object, g.copy) {
		d.report(fmt.Sprintf("%s %s at revision %d was changed by a reader: %s", d.resource, key, g.object.Revision, diff.Diff(g.copy, g.object.Object)))
		delete(d.copies, key) // once is enough
	}
}
