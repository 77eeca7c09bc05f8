package store

import "sync"

// Memo remembers values derived from one revision of one object, such as its wire encodings.
// The zero value is ready. Safe for concurrent use.
type Memo struct {
	mu    sync.Mutex
	first *derived // guarded by mu; a list, because there are two or three, of each of very many objects
}

type derived struct {
	key, value any
	next       *derived
}

// Get returns the value for key, making it once with make if it is not there yet. Concurrent callers of the same
// key may each wait for the one that makes it.
func (m *Memo) Get(key any, make func() any) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := m.first; d != nil; d = d.next {
		if d.key == key {
			return d.value
		}
	}
	v := make()
	m.first = &derived{key, v, m.first}
	return v
}
