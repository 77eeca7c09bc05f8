package kinds

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// message is an object that knows its protocol buffer.
type message interface {
	runtime.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// storedAs is the hub of a kind that is stored in an older version of itself, as upstream does it for a while so that a downgrade can read what is there.
// The two versions give every field the same number: one's message is the other's.
func storedAs(served, stored schema.GroupVersionKind, newServed, newStored func() message) *Hub {
	convert := func(from runtime.Object, to message, kind schema.GroupVersionKind) (runtime.Object, error) {
		m, ok := from.(message)
		if !ok {
			return nil, fmt.Errorf("convert to %s: a %T has no message", kind, from)
		}
		b, err := m.Marshal()
		if err != nil {
			return nil, fmt.Errorf("convert to %s: %w", kind, err)
		}
		if err := to.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("convert to %s: %w", kind, err)
		}
		to.GetObjectKind().SetGroupVersionKind(kind)
		return to, nil
	}
	return &Hub{
		New:       func() runtime.Object { return newStored() },
		HubIsKind: stored,
		ToHub:     func(o runtime.Object) (runtime.Object, error) { return convert(o, newStored(), stored) },
		FromHub:   func(o runtime.Object) (runtime.Object, error) { return convert(o, newServed(), served) },
	}
}

// keeping is h with this Keep.
func (h *Hub) keeping(keep func(next, stored runtime.Object)) *Hub {
	h.Keep = keep
	return h
}
