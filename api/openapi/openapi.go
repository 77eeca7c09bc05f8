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
	"sync"
	"weak"

	"wherry.dev/wherry/api/kinds"
)

//go:generate sh -c "cd generate && go run . ../definitions.jsonl.zst"

// Documents are the OpenAPI documents of one list of kinds. Safe for concurrent use.
type Documents struct {
	version string
	groups  []group // in discovery order

	index func() (*index, error) // made once, on first use

	mu   sync.Mutex // guards made, and lets one document be made at a time
	made map[string]weak.Pointer[document]
}

// group is one document of v3: a group and version, or one of the small ones that list groups and versions.
type group struct {
	path  string // "api/v1", "apis/apps/v1", "version"
	paths func() []path
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

// New returns the documents for the served kinds. version is the Kubernetes version they speak of, like v1.37.2.
func New(served []*kinds.Kind, version string) *Documents {
	d := &Documents{version: version, groups: groupsOf(served), made: map[string]weak.Pointer[document]{}}
	d.index = sync.OnceValues(d.makeIndex)
	return d
}

// makeIndex hashes what the documents are made of, which costs far less than to make them: the same paths,
// definitions and version give the same document.
func (d *Documents) makeIndex() (*index, error) {
	x := &index{v3: make(map[string]string, len(d.groups))}
	whole := sha512.New()
	fmt.Fprintf(whole, "v2 %s %x", d.version, sha512.Sum512(definitionsFile))
	for _, g := range d.groups {
		paths, err := json.Marshal(v3Paths(g.paths()))
		if err != nil {
			return nil, fmt.Errorf("describe paths of %s: %w", g.path, err)
		}
		whole.Write(paths)
		one := sha512.New()
		fmt.Fprintf(one, "v3 %s %x", d.version, sha512.Sum512(definitionsFile))
		one.Write(paths)
		x.v3[g.path] = hash(one.Sum(nil))
	}
	x.v2 = hash(whole.Sum(nil))
	return x, nil
}

// hash spells a digest as upstream spells its ETags.
func hash(sum []byte) string { return string(bytes.ToUpper([]byte(hex.EncodeToString(sum)))) }

// V2JSON returns the OpenAPI v2 document of the whole API as JSON. The bytes are shared: callers must not change them.
func (d *Documents) V2JSON() (etag string, doc []byte, err error) {
	x, err := d.index()
	if err != nil {
		return "", nil, err
	}
	doc, err = d.cached("v2.json", func() ([]byte, error) { return makeV2(d.groups, d.version) })
	return x.v2, doc, err
}

// V2Proto returns the OpenAPI v2 document in gnostic's protobuf encoding, which kubectl asks for. The bytes are
// shared: callers must not change them.
func (d *Documents) V2Proto() (etag string, doc []byte, err error) {
	x, err := d.index()
	if err != nil {
		return "", nil, err
	}
	doc, err = d.cached("v2.proto", func() ([]byte, error) {
		text, err := makeV2(d.groups, d.version)
		if err != nil {
			return nil, err
		}
		return v2Proto(text)
	})
	return x.v2, doc, err
}

// V3Paths returns the hash of each OpenAPI v3 document by its path ("api/v1", "apis/apps/v1"). The map is shared.
func (d *Documents) V3Paths() (map[string]string, error) {
	x, err := d.index()
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
	for _, g := range d.groups {
		if g.path != path {
			continue
		}
		x, err := d.index()
		if err != nil {
			return "", nil, true, err
		}
		doc, err = d.cached(path+encoding, func() ([]byte, error) {
			text, err := makeV3(g, d.version)
			if err != nil {
				return nil, err
			}
			return encode(text)
		})
		return x.v3[path], doc, true, err
	}
	return "", nil, false, nil
}

// cached returns the document of that name, made anew if the last one has been collected.
func (d *Documents) cached(name string, build func() ([]byte, error)) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if doc := d.made[name].Value(); doc != nil {
		return doc.data, nil
	}
	data, err := build()
	if err != nil {
		return nil, fmt.Errorf("make OpenAPI document %s: %w", name, err)
	}
	doc := &document{data}
	d.made[name] = weak.Make(doc)
	return doc.data, nil
}
