package aggregate

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// When other servers are asked how they are described: when somebody asks us, and no more often than this; sooner when they did not
// answer.
const (
	describeTimeout = 10 * time.Second
	describeAgain   = time.Minute
	describeSoon    = time.Second
)

// describeUser is whom other servers hear then: anybody may ask it.
const describeUser = "system:aggregator"

// Description is how another server describes a group and version. Safe for concurrent use.
type Description struct {
	peer *peer
	gv   schema.GroupVersion

	mu     sync.Mutex // held while the server is asked: others wait for the same answer
	v2     *spec.Swagger
	tag    string // of v2
	v2Next question
	hash   string // of the v3 document; empty: there is none
	v3Next question
}

// question says when to ask again.
type question struct {
	at       time.Time
	failures int // in a row
}

func (q *question) due() bool { return !time.Now().Before(q.at) }

// answered notes an answer, or that there was none to be had.
func (q *question) answered(good bool) {
	if good {
		q.failures, q.at = 0, time.Now().Add(describeAgain)
		return
	}
	q.failures++
	q.at = time.Now().Add(backOff(describeSoon, describeAgain, q.failures))
}

func newDescription(p *peer, gv schema.GroupVersion) *Description {
	return &Description{peer: p, gv: gv}
}

// swagger returns the OpenAPI v2 document of the group and version and its tag, nil when there is none. The document is shared and
// immutable. A server that does not answer keeps what it said last.
func (d *Description) swagger(ctx context.Context) (*spec.Swagger, string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.v2Next.due() {
		return d.v2, d.tag
	}
	answer, err := d.ask(ctx, "/openapi/v2", d.tag)
	whole := &spec.Swagger{}
	if err == nil && answer.code == http.StatusOK {
		err = json.Unmarshal(answer.body, whole)
	}
	d.v2Next.answered(err == nil && slices.Contains([]int{http.StatusOK, http.StatusNotModified, http.StatusNotFound}, answer.code))
	if err != nil || answer.code != http.StatusOK {
		return d.v2, d.tag
	}
	d.v2 = aggregator.FilterSpecByPathsWithoutSideEffects(whole, []string{"/apis/" + d.gv.String() + "/"})
	if d.tag = answer.header.Get("ETag"); d.tag == "" {
		d.tag = fmt.Sprintf("%X", sha512.Sum512(answer.body))
	}
	return d.v2, d.tag
}

// v3 returns the hash of the OpenAPI v3 document; ok is false when there is none.
func (d *Description) v3(ctx context.Context) (hash string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.v3Next.due() {
		return d.hash, d.hash != ""
	}
	answer, err := d.ask(ctx, "/openapi/v3", "")
	index := handler3.OpenAPIV3Discovery{}
	if err == nil && answer.code == http.StatusOK {
		err = json.Unmarshal(answer.body, &index)
	}
	good := err == nil && (answer.code == http.StatusOK || answer.code == http.StatusNotFound)
	d.v3Next.answered(good)
	if !good {
		return d.hash, d.hash != ""
	}
	d.hash = ""
	if entry, ok := index.Paths[d.path()]; ok {
		if u, err := url.Parse(entry.ServerRelativeURL); err == nil {
			d.hash = u.Query().Get("hash")
		}
		if d.hash == "" { // a server without hashes: nothing tells when its document changes
			d.hash = fmt.Sprintf("%X", sha512.Sum512(answer.body))
		}
	}
	return d.hash, d.hash != ""
}

// path names the v3 document.
func (d *Description) path() string { return "apis/" + d.gv.String() }

func (d *Description) ask(ctx context.Context, path, etag string) (*reply, error) {
	// The answer is for all who wait for it: it must not be lost because the first of them went away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), describeTimeout)
	defer cancel()
	u, err := d.peer.locate(path)
	if err != nil {
		return nil, err
	}
	return d.peer.get(ctx, u, "application/json", etag, describeUser)
}

// each calls f for every description at once and waits.
func each(list []Foreign, f func(i int, d *Description)) {
	var all sync.WaitGroup
	for i := range list {
		if d := list[i].OpenAPI; d != nil {
			all.Go(func() { f(i, d) })
		}
	}
	all.Wait()
}

// V3Paths returns the hash of each v3 document of list by its path ("apis/metrics.k8s.io/v1beta1"). The documents themselves are their
// servers' to give.
func V3Paths(ctx context.Context, list []Foreign) map[string]string {
	hashes := make([]string, len(list))
	each(list, func(i int, d *Description) { hashes[i], _ = d.v3(ctx) })
	out := map[string]string{}
	for i, h := range hashes {
		if h != "" {
			out[list[i].OpenAPI.path()] = h
		}
	}
	return out
}

// Merged joins the OpenAPI v2 document of the server in front with those of others. The zero value is ready. Safe for concurrent use.
type Merged struct {
	mu    sync.Mutex // held while a document is made: others wait for the same one
	etag  string
	json  weak.Pointer[[]byte] // kept until the garbage collector wants it: few clients ask
	proto weak.Pointer[[]byte]
}

// V2 returns the joined document of own, whose tag is etag, and list, as JSON or in gnostic's protobuf encoding. The bytes are shared.
// What two servers describe differently under one name gets two names, as upstream gives them.
func (m *Merged) V2(ctx context.Context, etag string, own []byte, list []Foreign, protobuf bool) (string, []byte, error) {
	docs, tags := make([]*spec.Swagger, len(list)), make([]string, len(list))
	each(list, func(i int, d *Description) { docs[i], tags[i] = d.swagger(ctx) })
	etag = fmt.Sprintf("%X", sha512.Sum512([]byte(etag+" "+strings.Join(tags, " "))))

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.etag != etag {
		m.etag, m.json, m.proto = etag, weak.Pointer[[]byte]{}, weak.Pointer[[]byte]{}
	}
	text := m.json.Value()
	if text == nil && (!protobuf || m.proto.Value() == nil) {
		whole := &spec.Swagger{}
		if err := json.Unmarshal(own, whole); err != nil {
			return "", nil, fmt.Errorf("join OpenAPI documents: read our own: %w", err)
		}
		for i, d := range docs {
			if d == nil {
				continue
			}
			if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(whole, d); err != nil {
				return "", nil, fmt.Errorf("join OpenAPI document of %s: %w", list[i].GroupVersion, err)
			}
		}
		b, err := json.Marshal(whole)
		if err != nil {
			return "", nil, fmt.Errorf("join OpenAPI documents: %w", err)
		}
		text = &b
		m.json = weak.Make(text)
	}
	if !protobuf {
		return etag, *text, nil
	}
	if b := m.proto.Value(); b != nil {
		return etag, *b, nil
	}
	document, err := openapi_v2.ParseDocument(*text)
	if err != nil {
		return "", nil, fmt.Errorf("join OpenAPI documents: %w", err)
	}
	b, err := proto.Marshal(document)
	if err != nil {
		return "", nil, fmt.Errorf("join OpenAPI documents: %w", err)
	}
	m.proto = weak.Make(&b)
	return etag, b, nil
}
