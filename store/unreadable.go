package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// sealedError is a value that cannot be decrypted with the keys there are, in upstream's words.
type sealedError struct {
	key string // in etcd
	err error
}

// Error implements error.
func (e *sealedError) Error() string {
	return fmt.Sprintf("unable to transform key %q: %v", e.key, e.err)
}

// Unwrap gives the transformer's own error.
func (e *sealedError) Unwrap() error { return e.err }

// unreadable remembers the keys of a resource whose values cannot be read. One that cannot be decoded is left out of lists. One that
// cannot be decrypted makes every list that would have it fail, as upstream's do: a key that is missing from the configuration
// hides a whole resource, and nobody may take that for an empty one. The zero value is ready. Safe for concurrent use.
type unreadable struct {
	count atomic.Int64 // of sealed keys: most of the time there are none, and nobody waits for mu

	mu    sync.Mutex
	byKey map[string]error // below the resource's prefix; guarded by mu
}

func isSealed(err error) bool {
	var sealed *sealedError
	return errors.As(err, &sealed)
}

// set notes why key cannot be read.
func (u *unreadable) set(key string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(key)
	if u.byKey == nil {
		u.byKey = map[string]error{}
	}
	u.byKey[key] = err
	if isSealed(err) {
		u.count.Add(1)
	}
}

// clear notes that key can be read, or is not there.
func (u *unreadable) clear(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(key)
}

// add notes what other has, besides.
func (u *unreadable) add(other *unreadable) {
	for key, err := range other.byKey {
		u.set(key, err)
	}
}

// drop takes key out. Callers hold mu.
func (u *unreadable) drop(key string) {
	if err, ok := u.byKey[key]; ok {
		delete(u.byKey, key)
		if isSealed(err) {
			u.count.Add(-1)
		}
	}
}

// of returns why key cannot be read, nil if it can or is not there.
func (u *unreadable) of(key string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byKey[key]
}

// sealed returns up to n keys that cannot be decrypted.
func (u *unreadable) sealed(n int) []string {
	if u.count.Load() == 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var out []string
	for key, err := range u.byKey {
		if len(out) == n {
			break
		}
		if isSealed(err) {
			out = append(out, key)
		}
	}
	return out
}

// within returns the error of a key with the prefix, or of exactly key if one is named, that cannot be decrypted; nil if there is none.
func (u *unreadable) within(prefix, key string) error {
	if u.count.Load() == 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var first string
	var found error
	for k, err := range u.byKey {
		if !strings.HasPrefix(k, prefix) || key != "" && k != key || !isSealed(err) {
			continue
		}
		if found == nil || k < first {
			first, found = k, err
		}
	}
	return found
}

// Sealed values are looked at again after a while: a KMS plugin may have come back, or another API server written them anew.
const (
	unsealMin = time.Second
	unsealMax = 30 * time.Second
	unsealTry = 100 // keys looked at in one go
)
