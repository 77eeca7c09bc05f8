package store

import (
	"bytes"
	"sync"
)

// ownWrites remembers what this process is writing and has written until the feed has brought it back. It serves two ends:
// the object that was written becomes the cache's copy, so that nobody decodes it; and a reader who comes between
// etcd's answer and the feed finds it here.
//
// The feed knows a write again by its revision if etcd's answer came first, else by its bytes: an equal value under the
// same key is the same object, whoever wrote it.
type ownWrites struct {
	mu     sync.Mutex
	byKey  map[string][]*ownWrite // in the order in which they began; guarded by mu
	passed int64                  // the feed has brought everything up to here; guarded by mu
}

// ownWrite is one write; its fields are guarded by ownWrites.mu but for key and value, which never change.
type ownWrite struct {
	key      string
	value    []byte  // as stored; nil for a deletion
	object   *Object // revision and resourceVersion are set when revision is; of a deletion nil
	revision int64   // 0: not known yet
}

// begin registers a write before it is sent.
func (o *ownWrites) begin(w *ownWrite) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byKey == nil {
		o.byKey = map[string][]*ownWrite{}
	}
	o.byKey[w.key] = append(o.byKey[w.key], w)
}

// settle notes that etcd gave w its revision. From now on newest finds it, until the feed has passed.
func (o *ownWrites) settle(w *ownWrite, revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w.object != nil && w.revision != 0 && w.revision != revision {
		// The feed took the object for an equal one of another writer; ours is a later one with the same bytes.
		w.object, w.revision = departed(w.object, revision), revision
	}
	w.at(revision)
	if revision <= o.passed {
		o.remove(w)
	}
}

// abandon forgets a write that etcd refused or did not answer. If it did happen, the feed decodes it.
func (o *ownWrites) abandon(w *ownWrite) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.remove(w)
}

// take returns the object written under key at revision with value, nil if this process did not write it.
func (o *ownWrites) take(key string, revision int64, value []byte) *Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.byKey[key] {
		if w.object != nil && (w.revision == revision || w.revision == 0 && bytes.Equal(w.value, value)) {
			w.at(revision)
			return w.object
		}
	}
	return nil
}

// pass notes that the cache has everything up to revision, in which keys changed.
func (o *ownWrites) pass(keys []string, revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passed = max(o.passed, revision)
	for _, key := range keys {
		o.drop(key, revision)
	}
}

// restart is pass after the whole state was read anew.
func (o *ownWrites) restart(revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passed = max(o.passed, revision)
	for key := range o.byKey {
		o.drop(key, revision)
	}
}

// newest returns the last settled write of key that the feed has not passed; ok is false when there is none.
func (o *ownWrites) newest(key string) (object *Object, revision int64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range o.byKey[key] {
		if w.revision > revision {
			object, revision, ok = w.object, w.revision, true
		}
	}
	return object, revision, ok
}

// at gives the write its revision, once. Callers hold mu.
func (w *ownWrite) at(revision int64) {
	if w.revision != 0 {
		return
	}
	w.revision = revision
	if w.object != nil {
		w.object.Revision = revision
		setRevision(w.object.Object, revision)
	}
}

// remove takes w out. Callers hold mu.
func (o *ownWrites) remove(w *ownWrite) {
	list := o.byKey[w.key]
	for i := range list {
		if list[i] == w {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	o.set(w.key, list)
}

// drop takes out the writes of key that happened up to revision. Callers hold mu.
func (o *ownWrites) drop(key string, revision int64) {
	list := o.byKey[key]
	if len(list) == 0 {
		return
	}
	var keep []*ownWrite
	for _, w := range list {
		if w.revision == 0 || w.revision > revision {
			keep = append(keep, w)
		}
	}
	o.set(key, keep)
}

func (o *ownWrites) set(key string, list []*ownWrite) {
	if len(list) == 0 {
		delete(o.byKey, key)
	} else {
		o.byKey[key] = list
	}
}
