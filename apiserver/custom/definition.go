package custom

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"wherry.dev/wherry/api/kinds"
)

// definition is one state of a CustomResourceDefinition, prepared for serving. Immutable. What is expensive is made when the first
// object needs it: most versions of most definitions are never written to.
type definition struct {
	crd      *apiextensionsv1.CustomResourceDefinition // shared
	versions []*version                                // in the definition's order
	storage  *version
	edition  string // of what objects look like
	ending   bool
	used     atomic.Bool // something that is expensive has been made

	converter  func() (runtime.ObjectConvertor, error)
	mergeTypes func() (managedfields.TypeConverter, error) // of all versions: managed fields may have been recorded in any
}

// newDefinition prepares d, which must have been given its names.
func newDefinition(d *apiextensionsv1.CustomResourceDefinition, converters *conversion.CRConverterFactory) (*definition, error) {
	def := &definition{crd: d, ending: terminating(d)}
	names, err := json.Marshal(d.Status.AcceptedNames)
	if err != nil {
		return nil, fmt.Errorf("spell names of definition %s: %w", d.Name, err)
	}
	def.edition = fmt.Sprintf("%s/%d/%s", d.UID, d.Generation, names)
	def.converter = sync.OnceValues(func() (runtime.ObjectConvertor, error) {
		safe, _, err := converters.NewConverter(d)
		if err != nil {
			return nil, fmt.Errorf("prepare conversion of %s: %w", d.Name, err)
		}
		return safe, nil
	})
	def.mergeTypes = sync.OnceValues(def.makeMergeTypes)
	for i := range d.Spec.Versions {
		v := newVersion(def, &d.Spec.Versions[i])
		def.versions = append(def.versions, v)
		if v.v.Storage {
			def.storage = v
		}
	}
	if def.storage == nil {
		return nil, fmt.Errorf("definition %s has no storage version", d.Name)
	}
	return def, nil
}

// kinds returns what the definition serves: a kind for each served version, the storage version's first.
func (def *definition) kinds() []*kinds.Kind {
	var out []*kinds.Kind
	for _, v := range def.versions {
		switch {
		case !v.v.Served:
		case v == def.storage:
			out = slices.Insert(out, 0, v.kind())
		default:
			out = append(out, v.kind())
		}
	}
	return out
}

// version returns the version of that name, nil when there is none.
func (def *definition) version(name string) *version {
	for _, v := range def.versions {
		if v.v.Name == name {
			return v
		}
	}
	return nil
}

// convert returns a copy of u, which may be in any version of the definition, in another one.
func (def *definition) convert(u *unstructured.Unstructured, to schema.GroupVersion) (*unstructured.Unstructured, error) {
	if u.GroupVersionKind().GroupVersion() == to {
		return u.DeepCopy(), nil
	}
	c, err := def.converter()
	if err != nil {
		return nil, err
	}
	out, err := c.ConvertToVersion(u, to)
	if err != nil {
		return nil, err
	}
	got, ok := out.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("conversion of %s returned a %T", def.crd.Name, out)
	}
	got.SetResourceVersion(u.GetResourceVersion())
	return got, nil
}

// groupVersions are those of the versions, served or not, of which ok is true.
func (def *definition) groupVersions(ok func(*version) bool) (out []schema.GroupVersion) {
	for _, v := range def.versions {
		if ok(v) {
			out = append(out, v.gvk.GroupVersion())
		}
	}
	return out
}

// condition tells whether d has a condition that is true.
func condition(d *apiextensionsv1.CustomResourceDefinition, t apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	return slices.ContainsFunc(d.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == t && c.Status == apiextensionsv1.ConditionTrue
	})
}

func terminating(d *apiextensionsv1.CustomResourceDefinition) bool {
	return d.DeletionTimestamp != nil || condition(d, apiextensionsv1.Terminating)
}
