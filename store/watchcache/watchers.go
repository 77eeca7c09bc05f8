package watchcache

// watchers finds those whom a change may concern. Guarded by the cache's mu.
type watchers[T any] struct {
	all         *set[T]
	byNamespace map[string]*set[T]
	byKey       map[string]*set[T]
	byIndex     map[string]*set[T]
	marks       int // how many want bookmarks
}

// set is a list of watchers that share a scope; order means nothing.
type set[T any] struct {
	list []*Watcher[T]
	in   map[string]*set[T] // the map that holds this set under name; nil for the set of all
	name string
}

func newWatchers[T any]() watchers[T] {
	return watchers[T]{all: &set[T]{}, byNamespace: map[string]*set[T]{}, byKey: map[string]*set[T]{}, byIndex: map[string]*set[T]{}}
}

// add registers w in the narrowest scope it has.
func (ws *watchers[T]) add(w *Watcher[T]) {
	s := ws.all
	switch {
	case w.o.Key != "":
		s = within(ws.byKey, w.o.Key)
	case w.o.Index != "":
		s = within(ws.byIndex, w.o.Index)
	case w.o.Namespace != "":
		s = within(ws.byNamespace, w.o.Namespace)
	}
	w.slot, w.place = s, len(s.list)
	s.list = append(s.list, w)
	if w.o.Bookmarks {
		ws.marks++
	}
}

func within[T any](m map[string]*set[T], name string) *set[T] {
	s := m[name]
	if s == nil {
		s = &set[T]{in: m, name: name}
		m[name] = s
	}
	return s
}

// remove takes w out; removing one that is out is nothing.
func (ws *watchers[T]) remove(w *Watcher[T]) {
	s := w.slot
	if s == nil {
		return
	}
	last := len(s.list) - 1
	s.list[w.place] = s.list[last]
	s.list[w.place].place = w.place
	s.list[last] = nil
	s.list = s.list[:last]
	w.slot = nil
	if last == 0 && s.in != nil {
		delete(s.in, s.name)
	}
	if w.o.Bookmarks {
		ws.marks--
	}
}

func (ws *watchers[T]) bookmarked() int { return ws.marks }

// each calls f for every watcher; f may remove the one it is given.
func (ws *watchers[T]) each(f func(*Watcher[T])) {
	ws.all.each(f)
	for _, m := range []map[string]*set[T]{ws.byNamespace, ws.byKey, ws.byIndex} {
		for _, s := range m {
			s.each(f)
		}
	}
}

func (s *set[T]) each(f func(*Watcher[T])) {
	if s == nil {
		return
	}
	for i := len(s.list) - 1; i >= 0; i-- { // backwards: a removal puts the last one, already seen, in its place
		f(s.list[i])
	}
}

// end fails every watcher with err and forgets them.
func (ws *watchers[T]) end(err error) {
	ws.each(func(w *Watcher[T]) {
		w.fail(err)
		ws.remove(w)
	})
}

// dispatch hands a change to those whom it may concern. Callers hold mu.
func (c *Cache[T]) dispatch(change *Change[T]) {
	give := func(w *Watcher[T]) {
		if !w.push(change, c.c.Limits.Queue) {
			c.watchers.remove(w)
		}
	}
	ws := &c.watchers
	ws.all.each(give)
	if len(ws.byNamespace) > 0 {
		ws.byNamespace[namespaceOf(change.key)].each(give)
	}
	if len(ws.byKey) > 0 {
		ws.byKey[change.key].each(give)
	}
	if len(ws.byIndex) > 0 {
		was, is := "", ""
		if change.Previous != nil {
			was = c.c.Index(change.Previous)
			ws.byIndex[was].each(give)
		}
		if change.Current != nil {
			if is = c.c.Index(change.Current); is != was || change.Previous == nil {
				ws.byIndex[is].each(give)
			}
		}
	}
}
