package endpointslice

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// removeSlices removes the slices of a Service that is gone. Upstream leaves that to the garbage collector; here it
// happens at once, because traffic should end at once.
func (k *controller) removeSlices(ctx context.Context, name types.NamespacedName) error {
	slices, err := k.ownSlices(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, slice := range slices {
		err := k.Client.Kubernetes.DiscoveryV1().EndpointSlices(name.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &slice.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("remove slice %s of service %s: %w", slice.Name, name, err))
		}
	}
	return errors.Join(errs...)
}
