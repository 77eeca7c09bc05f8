package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"wherry.dev/wherry/store/watchcache"
)

// page is one list call, resolved: what, from where, how much.
type page struct {
	prefix string // keys must begin with it
	start  string // first key, "" for the first there is
	key    string // the only key, when one is named
	name   string // the only name, in any namespace
	limit  int64  // 0: all
	match  func(*Object) bool
}

// List implements Resource. The combinations are those of upstream's table "resourceVersion semantics for list".
func (r *resource) List(ctx context.Context, o ListOptions) (*ListResult, error) {
	result, err := r.list(ctx, o)
	if err != nil {
		return nil, failed(r.c.GroupResource, "list", err)
	}
	return result, nil
}

func (r *resource) list(ctx context.Context, o ListOptions) (*ListResult, error) {
	if err := r.started(ctx); err != nil {
		return nil, err
	}
	revision, err := parseRevision(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	p := page{limit: max(o.Limit, 0), match: r.matcher(o.Selector)}
	if o.Namespace != "" && r.c.Namespaced {
		p.prefix = o.Namespace + "/"
	}
	switch {
	case o.Name == "":
	case p.prefix != "" || !r.c.Namespaced:
		p.key = p.prefix + o.Name
	default:
		p.name = o.Name
	}

	if o.Continue != "" {
		if revision != 0 || o.ResourceVersionMatch != "" {
			return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		start, at, err := decodeToken(o.Continue)
		if err != nil {
			return nil, err
		}
		p.start = p.prefix + start
		if at != latest {
			return r.listAt(ctx, p, at, true)
		}
		if err := r.fresh(ctx); err != nil {
			return nil, err
		}
		return r.now(p)
	}

	switch o.ResourceVersionMatch {
	case metav1.ResourceVersionMatchExact:
		if revision == 0 {
			return nil, apierrors.NewBadRequest(`resourceVersionMatch "Exact" is forbidden without a resourceVersion, or with "0"`)
		}
		return r.listAt(ctx, p, revision, false)
	case metav1.ResourceVersionMatchNotOlderThan:
		if o.ResourceVersion == "" {
			return nil, apierrors.NewBadRequest("resourceVersionMatch is forbidden unless resourceVersion is provided")
		}
	case "":
		if revision > 0 && p.limit > 0 { // the legacy meaning of a limit
			return r.listAt(ctx, p, revision, false)
		}
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("resourceVersionMatch %q is not one of Exact, NotOlderThan", o.ResourceVersionMatch))
	}
	switch {
	case o.ResourceVersion == "":
		err = r.fresh(ctx)
	case revision == 0:
		p.limit = 0 // as upstream: "any" is answered from memory, in one piece
	default:
		err = r.reach(ctx, revision)
	}
	if err != nil {
		return nil, err
	}
	return r.now(p)
}

// now lists what the cache has.
func (r *resource) now(p page) (*ListResult, error) {
	if err := r.broken.Load().within(p.prefix, p.key); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return r.walk(r.cache.Snapshot(), p), nil
}

// listAt lists as of exactly revision: from memory while it remembers, else from etcd's history.
func (r *resource) listAt(ctx context.Context, p page, revision int64, continued bool) (*ListResult, error) {
	if err := r.reach(ctx, revision); err != nil {
		return nil, err
	}
	if err := r.broken.Load().within(p.prefix, p.key); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	// A revision ends with etcd's history, also where memory goes back further: every API server says the same then, and clients that take too long
	// learn of it, as upstream's conformance asks.
	result, err := (*ListResult)(nil), error(rpctypes.ErrCompacted)
	if revision >= r.s.compacted.Load() {
		if s, ok := r.cache.SnapshotAt(revision); ok {
			return r.walk(s, p), nil
		}
		result, err = r.listHistory(ctx, p, revision)
	}
	if errors.Is(err, rpctypes.ErrCompacted) {
		if !continued {
			return nil, apierrors.NewResourceExpired(listExpired)
		}
		expired := apierrors.NewResourceExpired(continueExpired)
		expired.ErrStatus.ListMeta.Continue = encodeToken(strings.TrimPrefix(p.start, p.prefix), latest)
		return nil, expired
	}
	return result, err
}

// walk reads a page from a snapshot, and keeps the snapshot if there is more to read.
func (r *resource) walk(s watchcache.Snapshot[Object], p page) *ListResult {
	result := &ListResult{ResourceVersion: s.Revision}
	if p.key != "" {
		if o := s.Get(p.key); o != nil && p.key >= p.start && (p.match == nil || p.match(o)) {
			result.Items = []*Object{o}
		}
		return result
	}
	if p.limit > 0 {
		result.Items = make([]*Object, 0, min(p.limit, int64(s.Len())))
	} else if p.prefix == "" && p.match == nil && p.name == "" {
		result.Items = make([]*Object, 0, s.Len())
	}
	remaining := int64(0)
	last := ""
	s.Walk(p.prefix, p.start, func(key string, o *Object) bool {
		if p.limit > 0 && int64(len(result.Items)) == p.limit {
			if p.prefix == "" && p.start == "" && p.match == nil && p.name == "" { // from the first of all there are
				remaining = int64(s.Len()) - p.limit
				return false
			}
			remaining++
			return p.match == nil && p.name == "" // count the rest only where the count is told
		}
		if p.wants(key, o) {
			result.Items = append(result.Items, o)
		}
		last = key
		return true
	})
	if remaining > 0 {
		result.more(p, last, remaining)
		r.cache.Retain(s)
	}
	return result
}

// wants says whether the object at key belongs in the list.
func (p *page) wants(key string, o *Object) bool {
	if p.name != "" && key[strings.IndexByte(key, '/')+1:] != p.name {
		return false
	}
	return p.match == nil || p.match(o)
}

// more notes that the list goes on after key last. The count is only told where it is of matching objects.
func (l *ListResult) more(p page, last string, remaining int64) {
	l.Continue = encodeToken(strings.TrimPrefix(last, p.prefix)+"\x00", l.ResourceVersion)
	if p.match == nil && p.name == "" {
		l.RemainingItemCount = &remaining
	}
}

// listHistory reads a page from etcd as of revision. What has not changed since is taken from the cache, undecoded.
func (r *resource) listHistory(ctx context.Context, p page, revision int64) (*ListResult, error) {
	result := &ListResult{ResourceVersion: revision}
	key, end := r.prefix+max(p.prefix, p.start), clientv3.GetPrefixRangeEnd(r.prefix+p.prefix)
	if p.key != "" {
		key, end = r.prefix+p.key, r.prefix+p.key+"\x00"
	}
	size := int64(loadPage)
	if p.limit > 0 {
		size = min(p.limit, loadPage)
	}
	for {
		resp, err := r.get(ctx, requestList, key, clientv3.WithRange(end), clientv3.WithLimit(size), clientv3.WithRev(revision))
		if err != nil {
			return nil, err
		}
		for i, kv := range resp.Kvs {
			o := r.cache.Get(string(kv.Key[len(r.prefix):]))
			if o == nil || o.Revision != kv.ModRevision {
				if o, err = r.decode(ctx, kv); isSealed(err) {
					return nil, apierrors.NewInternalError(err)
				} else if err != nil {
					r.s.c.Log.Error("a stored object cannot be read and is left out of a list", "key", string(kv.Key), "error", err)
					continue
				}
			}
			if p.wants(o.Key, o) {
				result.Items = append(result.Items, o)
			}
			if rest := resp.Count - int64(i) - 1; p.limit > 0 && int64(len(result.Items)) == p.limit && rest > 0 {
				result.more(p, o.Key, rest)
				return result, nil
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return result, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		size = min(2*size, loadPage) // few match: ask for more at a time
	}
}

// matcher compiles a selector; nil matches everything.
func (r *resource) matcher(s Selector) func(*Object) bool {
	byLabel := s.Labels != nil && !s.Labels.Empty()
	byField := s.Fields != nil && !s.Fields.Empty()
	if !byLabel && !byField {
		return nil
	}
	index, indexed := "", false
	if byField && r.c.Index != nil {
		index, indexed = s.Fields.RequiresExactMatch(r.c.IndexField)
	}
	return func(o *Object) bool {
		if indexed && r.c.Index(o.Object) != index {
			return false
		}
		if byLabel {
			m, err := meta.Accessor(o.Object)
			if err != nil || !s.Labels.Matches(labels.Set(m.GetLabels())) {
				return false
			}
		}
		return !byField || s.FieldsOf != nil && s.Fields.Matches(s.FieldsOf(o))
	}
}
