package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/store/watchcache"
)

// Upstream's words for a revision that is gone.
const (
	listExpired     = "The resourceVersion for the provided list is too old."
	continueExpired = "The provided continue parameter is too old to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the " +
		"provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk " +
		"was returned and now may show up in the list."
)

// failed turns an error of etcd, or of waiting for it, into the API's.
func failed(gr schema.GroupResource, verb string, err error) error {
	var known apierrors.APIStatus
	var sealed *sealedError
	switch {
	case errors.As(err, &sealed):
		return apierrors.NewInternalError(sealed)
	case errors.As(err, &known):
		return err
	case errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %s: %v", verb, gr, err), 0)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrNoLeader),
		errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost),
		errors.Is(err, rpctypes.ErrLeaderChanged), status.Code(err) == codes.Unavailable, status.Code(err) == codes.DeadlineExceeded:
		return apierrors.NewServerTimeout(gr, verb, 2)
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return apierrors.NewTooManyRequests("etcd has too many requests waiting, try again", 1)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError("etcdserver: request is too large")
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage,
			Reason: metav1.StatusReasonInternalError,
			Message: "etcd takes no more writes because its database has reached its quota or its disk is full: delete objects or make room on the disk; " +
				"the embedded etcd then takes writes again by itself, an external one when it is defragmented and its NOSPACE alarm disarmed"}}
	case errors.Is(err, watchcache.ErrClosed):
		return apierrors.NewServiceUnavailable("the store is shutting down")
	}
	return apierrors.NewInternalError(fmt.Errorf("%s %s: %w", verb, gr, err))
}

// invalidObject is a conflict in upstream's words: its storage error, as text, is what clients see.
func invalidObject(gr schema.GroupResource, key, name, what string) error {
	return apierrors.NewConflict(gr, name, fmt.Errorf("StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: %s", key, what))
}

// tooLarge is upstream's answer to a revision that is not there yet.
func tooLarge(asked, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, current), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	return err
}
