package apiserver

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/store"
)

// A request that comes too late for a custom resource hears what it would on an unknown path: clients tell both apart from an object that is not there.
func TestClosedStoreIsAnUnknownResource(t *testing.T) {
	u := newUnopened(schema.GroupResource{Group: "shop.example", Resource: "widgets"}, func() (store.Resource, error) { return nil, errors.New("opened after all") })
	u.Close()
	_, err := u.List(t.Context(), store.ListOptions{})
	if !apierrors.IsNotFound(err) || err.Error() != "the server could not find the requested resource" {
		t.Errorf("got %v", err)
	}
}
