package custom

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
)

// builtIn returns the built-in kind whose place d would take, nil when there is none.
func (k *controller) builtIn(d *apiextensionsv1.CustomResourceDefinition) *kinds.Kind {
	for _, own := range k.own {
		if own.GroupVersionKind.Group == d.Spec.Group && own.Plural == d.Spec.Names.Plural {
			return own
		}
	}
	return nil
}

// definition prepares d, or returns what has been prepared of the same state.
func (k *controller) definition(d *apiextensionsv1.CustomResourceDefinition) (*definition, error) {
	def, err := newDefinition(d, k.converters)
	if err != nil {
		return nil, err
	}
	if had := k.served[d.Name]; had != nil && had.edition == def.edition && had.ending == def.ending {
		return had, nil
	}
	return def, nil
}

// share makes what is served of d hold the informer's object, which the watch cache has too, in place of the copy that it was established by:
// a definition takes hundreds of kilobytes. Where schemas have been made of that copy it stays.
func (k *controller) share(d *apiextensionsv1.CustomResourceDefinition) error {
	had := k.served[d.Name]
	if had == nil || had.crd == d || had.used.Load() || k.status[d.Name] != nil {
		return nil
	}
	def, err := newDefinition(d, k.converters)
	if err != nil || def.edition != had.edition || def.ending != had.ending {
		return err
	}
	if err := k.Server.SetKinds(had.resources(), def.kinds()); err != nil {
		return err
	}
	k.served[d.Name] = def
	return nil
}

// serve makes the server serve what d defines now.
func (k *controller) serve(d *apiextensionsv1.CustomResourceDefinition) error { return k.serveAll(d) }

// serveAll does it for several definitions in one step.
func (k *controller) serveAll(list ...*apiextensionsv1.CustomResourceDefinition) error {
	var removed []schema.GroupVersionResource
	var added []*kinds.Kind
	next := map[string]*definition{}
	for _, d := range list {
		def, err := k.definition(d)
		if err != nil {
			return err
		}
		if own := k.builtIn(d); own != nil {
			return fmt.Errorf("%s.%s is built in", own.Plural, d.Spec.Group)
		}
		had := k.served[d.Name]
		if had == def {
			continue
		}
		removed = append(removed, had.resources()...)
		added = append(added, def.kinds()...)
		next[d.Name] = def
	}
	if len(next) == 0 {
		return nil
	}
	if err := k.Server.SetKinds(removed, added); err != nil {
		return err
	}
	for name, def := range next {
		k.served[name] = def
	}
	return nil
}

// withdraw ends the serving of a definition that is gone.
func (k *controller) withdraw(name string) error {
	had := k.served[name]
	if had == nil {
		return nil
	}
	if err := k.Server.SetKinds(had.resources(), nil); err != nil {
		return err
	}
	delete(k.served, name)
	return nil
}

// resources are what is served of def, which may be nil.
func (def *definition) resources() (out []schema.GroupVersionResource) {
	if def == nil {
		return nil
	}
	for _, v := range def.versions {
		if v.v.Served {
			out = append(out, v.gvk.GroupVersion().WithResource(def.crd.Status.AcceptedNames.Plural))
		}
	}
	return out
}
