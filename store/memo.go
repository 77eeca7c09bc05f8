package store

import "sync"

// Memo remembers values derived from one revision of one object, such as its wire encodings.
// The zero value is ready. Safe for concurrent use.
type Memo struct {
	mu     sync.Mutex
	values map[any]any // guarded by mu; nil until the first value
}

// Get returns the value for key, making it once with make if it is not there yet. Concurrent callers of the same
// key may each wait for the one that makes it.
func (m *Memo) Get(key any, make func() any) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.values[key]; ok {
		return v
	}
	v := make()
	if m.values == nil {
		m.values = map[any]any{}
	}
	m.values[key] = v
	return v
}
