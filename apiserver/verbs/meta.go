package verbs

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"

	"wherry.dev/wherry/apiserver/managed"
)

// Generated names: the prefix is cut so that the whole is a DNS label, and five random characters follow.
const (
	randomLength     = 5
	maxGeneratedBase = 63 - randomLength
	nameAttempts     = 8 // KEP-4420
)

func generateName(base string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	return base + rand.String(randomLength)
}

// accessor returns obj's metadata; every stored kind has some.
func accessor(obj runtime.Object) (metav1.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("read metadata of %T: %w", obj, err))
	}
	return m, nil
}

// fillSystemFields gives a new object its identity and takes away what only the server may set.
func fillSystemFields(m metav1.Object) {
	m.SetDeletionTimestamp(nil)
	m.SetDeletionGracePeriodSeconds(nil)
	m.SetSelfLink("")
	m.SetCreationTimestamp(now())
	m.SetUID(uuid.NewUUID())
}

// matchNamespace makes obj's namespace that of the request, or refuses another one.
func (s *Served) matchNamespace(m metav1.Object, namespace string) error {
	if !s.Kind.Namespaced {
		if m.GetNamespace() != "" {
			m.SetNamespace("")
		}
		return nil
	}
	switch m.GetNamespace() {
	case namespace:
	case "":
		m.SetNamespace(namespace)
	default:
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// checkRequestNamespace refuses a namespaced object sent to a path without a namespace.
func (s *Served) checkRequestNamespace(namespace string) error {
	if s.Kind.Namespaced && namespace == "" {
		return apierrors.NewBadRequest("namespace is required")
	}
	return nil
}

// afterAdmission says in a warning that it is about what admission made.
const afterAdmission = " after mutating admission happens"

// warnOfOwners removes repeated owner references, and tells the client in upstream's words.
func warnOfOwners(r *Request, obj runtime.Object, when string) {
	if twice := managed.Dedup(obj); len(twice) > 0 {
		r.Warn(".metadata.ownerReferences contains duplicate entries" + when + "; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests" +
			"; duplicate UID(s) observed: " + strings.Join(twice, ", "))
	}
}
