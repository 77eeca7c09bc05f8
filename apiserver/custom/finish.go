package custom

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// finish deletes all objects of a definition that is being deleted, and lets it go when the last of them is gone.
func (k *controller) finish(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) error {
	next := d.DeepCopy()
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating}
	left, err := 0, error(nil)
	switch {
	case k.builtIn(d) != nil: // the objects under its key are somebody else's
		c.Reason, c.Message = "OverlappingBuiltInResource", "instances overlap with built-in resources in storage"
	case !condition(d, apiextensionsv1.Established):
		c.Reason, c.Message = "NeverEstablished", "resource was never established"
	default:
		c.Reason, c.Message = "InstanceDeletionCompleted", "removed all instances"
		if err := k.serve(d); err != nil {
			return err
		}
		def, derr := k.definition(d)
		if derr != nil {
			return derr
		}
		left, err = k.Server.Empty(ctx, def.storage.kind())
	}
	switch {
	case err != nil:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "InstanceDeletionFailed", fmt.Sprintf("could not issue all deletes: %v", err)
	case left > 0:
		c.Status, c.Reason, c.Message = apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress"
	default:
		c.Status = apiextensionsv1.ConditionFalse
		next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == apiextensionsv1.CustomResourceCleanupFinalizer })
	}
	apihelpers.SetCRDCondition(next, c)
	if !apiequality.Semantic.DeepEqual(d, next) {
		if werr := k.write(ctx, next); werr != nil {
			return errors.Join(err, werr)
		}
	}
	if left > 0 {
		k.loop.AddAfter(d.Name, again)
	}
	return err
}
