// Package openapi describes the API in OpenAPI v2 and v3 documents: paths made from the list of kinds, definitions
// from the sources of k8s.io/api, compiled into a compressed file by the generate folder. Nothing is decoded until
// somebody asks; what was made for one asker serves the next ones until the garbage collector takes it back. The API
// server hands the documents out.
package openapi

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"wherry.dev/wherry/api/kinds"
)

//go:generate sh -c "cd generate && go run . ../definitions.jsonl.zst"

// Documents are the OpenAPI documents of what is served. Safe for concurrent use.
type Documents struct {
	version string
	source  source
	now     atomic.Pointer[state]

	mu   sync.Mutex // guards made, and lets one document be made at a time
	made map[string]made
}

// state is what is served at one moment. Immutable.
type state struct {
	groups []*group               // in discovery order
	index  func() (*index, error) // made once, on first use
}

// group is one document of v3: a group and version, or one of the small ones that list groups and versions.
type group struct {
	path  string // "api/v1", "apis/apps/v1", "version"
	kinds []*kinds.Kind
	paths func() []path

	once sync.Once
	sum  []byte // set by once
	err  error  // set by once
}

// index is what stays in memory once somebody has asked: the hash of each document.
type index struct {
	v2 string
	v3 map[string]string // by group.path
}

// document is immutable once made.
type document struct {
	data []byte
}

// made is a document for as long as somebody has it.
type made struct {
	etag string
	doc  weak.Pointer[document]
}

// New returns the documents for the served kinds. version is the Kubernetes version they speak of, like v1.37.2.
func New(served []*kinds.Kind, version string) *Documents {
	d := &Documents{version: version, made: map[string]made{}}
	d.now.Store(d.newState(groupsOf(served, nil)))
	return d
}

// SetKinds changes what the documents are about, from the next question on. Nothing is made until then.
func (d *Documents) SetKinds(served []*kinds.Kind) {
	next := d.newState(groupsOf(served, d.now.Load().groups))
	d.now.Store(next)
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, m := range d.made { // what has been given up may be forgotten
		if m.doc.Value() == nil {
			delete(d.made, name)
		}
	}
}

func (d *Documents) newState(groups []*group) *state {
	s := &state{groups: groups}
	s.index = sync.OnceValues(func() (*index, error) { return d.makeIndex(groups) })
	return s
}

// makeIndex hashes what the documents are made of, which costs far less than to make them: the same paths,
// definitions and version give the same document.
func (d *Documents) makeIndex(groups []*group) (*index, error) {
	x := &index{v3: make(map[string]string, len(groups))}
	whole := sha512.New()
	fmt.Fprintf(whole, "v2 %s %x", d.version, definitionsSum())
	for _, g := range groups {
		sum, err := g.hash(d.version)
		if err != nil {
			return nil, err
		}
		whole.Write(sum)
		x.v3[g.path] = hash(sum)
	}
	x.v2 = hash(whole.Sum(nil))
	return x, nil
}

var definitionsSum = sync.OnceValue(func() [sha512.Size]byte { return sha512.Sum512(definitionsFile) })

// hash is made once of the paths, and of the editions of kinds whose schemas are not among the definitions.
func (g *group) hash(version string) ([]byte, error) {
	g.once.Do(func() {
		h := sha512.New()
		fmt.Fprintf(h, "v3 %s %x %s", version, definitionsSum(), g.path)
		custom := false
		for _, k := range g.kinds {
			if k.Custom {
				custom = true
				fmt.Fprintf(h, " %s %s", k.GroupVersionKind, k.Edition)
			}
		}
		if !custom || slices.ContainsFunc(g.kinds, func(k *kinds.Kind) bool { return !k.Custom }) {
			paths, err := json.Marshal(v3Paths(g.paths()))
			if err != nil {
				g.err = fmt.Errorf("describe paths of %s: %w", g.path, err)
				return
			}
			h.Write(paths)
		}
		g.sum = h.Sum(nil)
	})
	return g.sum, g.err
}

// hash spells a digest as upstream spells its ETags.
func hash(sum []byte) string { return string(bytes.ToUpper([]byte(hex.EncodeToString(sum)))) }

// V2JSON returns the OpenAPI v2 document of the whole API as JSON. The bytes are shared: callers must not change them.
func (d *Documents) V2JSON() (etag string, doc []byte, err error) {
	s := d.now.Load()
	x, err := s.index()
	if err != nil {
		return "", nil, err
	}
	doc, err = d.cached("v2.json", x.v2, func() ([]byte, error) { return makeV2(s.groups, d.version, &d.source) })
	return x.v2, doc, err
}

// V2Proto returns the OpenAPI v2 document in gnostic's protobuf encoding, which kubectl asks for. The bytes are
// shared: callers must not change them.
func (d *Documents) V2Proto() (etag string, doc []byte, err error) {
	s := d.now.Load()
	x, err := s.index()
	if err != nil {
		return "", nil, err
	}
	doc, err = d.cached("v2.proto", x.v2, func() ([]byte, error) {
		text, err := makeV2(s.groups, d.version, &d.source)
		if err != nil {
			return nil, err
		}
		return v2Proto(text)
	})
	return x.v2, doc, err
}

// V3Paths returns the hash of each OpenAPI v3 document by its path ("api/v1", "apis/apps/v1"). The map is shared.
func (d *Documents) V3Paths() (map[string]string, error) {
	x, err := d.now.Load().index()
	if err != nil {
		return nil, err
	}
	return x.v3, nil
}

// V3JSON returns one OpenAPI v3 document as JSON; ok is false when there is none at this path. The bytes are shared.
func (d *Documents) V3JSON(path string) (etag string, doc []byte, ok bool, err error) {
	return d.v3(path, ".json", func(text []byte) ([]byte, error) { return text, nil })
}

// V3Proto returns one OpenAPI v3 document in gnostic's protobuf encoding; ok is false when there is none at this path.
// The bytes are shared.
func (d *Documents) V3Proto(path string) (etag string, doc []byte, ok bool, err error) {
	return d.v3(path, ".proto", v3Proto)
}

func (d *Documents) v3(path, encoding string, encode func([]byte) ([]byte, error)) (etag string, doc []byte, ok bool, err error) {
	for _, g := range d.now.Load().groups {
		if g.path != path {
			continue
		}
		sum, err := g.hash(d.version)
		if err != nil {
			return "", nil, true, err
		}
		etag = hash(sum)
		doc, err = d.cached(path+encoding, etag, func() ([]byte, error) {
			text, err := makeV3(g, d.version, &d.source)
			if err != nil {
				return nil, err
			}
			return encode(text)
		})
		return etag, doc, true, err
	}
	return "", nil, false, nil
}

// cached returns the document of that name and hash, made anew if the last one was another or has been collected.
func (d *Documents) cached(name, etag string, build func() ([]byte, error)) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.made[name]; m.etag == etag {
		if doc := m.doc.Value(); doc != nil {
			return doc.data, nil
		}
	}
	data, err := build()
	if err != nil {
		return nil, fmt.Errorf("make OpenAPI document %s: %w", name, err)
	}
	doc := &document{data}
	d.made[name] = made{etag, weak.Make(doc)}
	return doc.data, nil
}
