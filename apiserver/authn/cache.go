package authn

import "sync"

// digest is a SHA-256 sum: the credential itself is never kept as a key.
type digest [32]byte

// cache remembers what was verified, bounded: when the young half is full it becomes the old one, and the old one is
// dropped; what is asked for again moves to the young half. Safe for concurrent use.
type cache[V any] struct {
	half int

	mu         sync.RWMutex // guards young and old
	young, old map[digest]V
}

func newCache[V any](size int) *cache[V] {
	return &cache[V]{half: size / 2, young: map[digest]V{}}
}

func (c *cache[V]) get(key digest) (V, bool) {
	c.mu.RLock()
	v, ok := c.young[key]
	if ok {
		c.mu.RUnlock()
		return v, true
	}
	v, ok = c.old[key]
	c.mu.RUnlock()
	if ok {
		c.put(key, v)
	}
	return v, ok
}

func (c *cache[V]) put(key digest, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.half {
		c.old, c.young = c.young, make(map[digest]V, c.half/4)
	}
	c.young[key] = v
}

func (c *cache[V]) drop(key digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.young, key)
	delete(c.old, key)
}

func (c *cache[V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old = map[digest]V{}, nil
}
