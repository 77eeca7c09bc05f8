// Package wire is how objects look on the connection: which encoding and rendering a client asked for, bodies in,
// objects, lists, tables and watch frames out, and errors as Status objects. It knows HTTP and the kinds, and nothing
// of storage but the shared object whose encodings it remembers. For apiserver and its parts only.
package wire

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Format is one encoding of API objects.
type Format uint8

// The served encodings. CBOR (KEP-4222) is understood but, as in upstream's default configuration, not advertised.
const (
	JSON Format = iota
	YAML
	Protobuf
	CBOR
)

// Media types of the formats.
const (
	MediaJSON     = "application/json"
	MediaYAML     = "application/yaml"
	MediaProtobuf = "application/vnd.kubernetes.protobuf"
	MediaCBOR     = "application/cbor"
)

var mediaTypes = [...]string{JSON: MediaJSON, YAML: MediaYAML, Protobuf: MediaProtobuf, CBOR: MediaCBOR}

// MediaType returns the format's media type.
func (f Format) MediaType() string { return mediaTypes[f] }

// Rendering is the shape in which a client wants to see objects.
type Rendering uint8

// Objects as they are, as rows of a Table, or as their metadata only (KEP-555).
const (
	AsObject Rendering = iota
	AsTable
	AsPartial
	AsPartialList
)

// Accept is the outcome of content negotiation. The zero value is plain JSON.
type Accept struct {
	Format    Format
	Pretty    bool
	Rendering Rendering
	// Meta is the version of meta.k8s.io for renderings other than AsObject.
	Meta schema.GroupVersion
}

// Renderings says what an endpoint can show its objects as, besides as they are.
type Renderings uint8

const (
	NoRenderings Renderings = iota
	// Metadata is all that kinds without columns have: those that are never stored.
	Metadata
	TablesToo
)

// Negotiate chooses what to answer r with. can tells what this endpoint renders;
// stream restricts the choice to encodings that can be framed. The error is a 406 Status.
func Negotiate(r *http.Request, can Renderings, stream bool) (Accept, error) {
	header := ""
	if v := r.Header["Accept"]; len(v) > 0 {
		header = v[0]
	}
	a := Accept{}
	switch header { // what nearly every client sends, without parsing
	case "", "*/*", MediaJSON, "application/json, */*":
	case MediaProtobuf, "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf, application/json",
		"application/vnd.kubernetes.protobuf, */*":
		a.Format = Protobuf
		return a, nil
	default:
		ok := false
		for _, clause := range goautoneg.ParseAccept(header) {
			if a, ok = accept(clause.Type, clause.SubType, clause.Params, can, stream); ok {
				break
			}
		}
		if !ok {
			return Accept{}, NotAcceptable(stream)
		}
	}
	if a.Format == JSON && !stream && !a.Pretty {
		a.Pretty = wantsPretty(r)
	}
	return a, nil
}

// NegotiateCustom is Negotiate for objects that have no protobuf form; their metadata has.
func NegotiateCustom(r *http.Request, can Renderings, stream bool) (Accept, error) {
	a, err := Negotiate(r, can, stream)
	if err != nil || a.Format != Protobuf || a.Rendering != AsObject {
		return a, err
	}
	for _, clause := range goautoneg.ParseAccept(r.Header.Get("Accept")) {
		if a, ok := accept(clause.Type, clause.SubType, clause.Params, can, stream); ok && (a.Format != Protobuf || a.Rendering != AsObject) {
			return a, nil
		}
	}
	if stream {
		return Accept{}, notAcceptable(MediaJSON + ";stream=watch")
	}
	return Accept{}, notAcceptable(MediaJSON, MediaYAML, MediaProtobuf) // of other things than objects
}

func accept(typ, sub string, params map[string]string, can Renderings, stream bool) (Accept, bool) {
	a := Accept{}
	switch {
	case typ == "*" && sub == "*", typ == "application" && (sub == "json" || sub == "*"):
	case typ == "application" && sub == "yaml":
		if stream {
			return a, false
		}
		a.Format = YAML
	case typ == "application" && sub == "vnd.kubernetes.protobuf":
		a.Format = Protobuf
	case typ == "application" && (sub == "cbor" || sub == "cbor-seq"):
		if stream != (sub == "cbor-seq") && !stream {
			return a, false
		}
		a.Format = CBOR
	default:
		return a, false
	}
	if s := params["stream"]; s != "" && (s != "watch" || a.Format == YAML) {
		return a, false
	}
	if params["sv"] != "" {
		return a, false
	}
	a.Pretty = params["pretty"] == "1"
	as, g, v := params["as"], params["g"], params["v"]
	if as == "" && g == "" && v == "" {
		return a, true
	}
	if can == NoRenderings || g != metav1.GroupName || (v != metav1.SchemeGroupVersion.Version && v != metav1beta1.SchemeGroupVersion.Version) {
		return a, false
	}
	a.Meta = schema.GroupVersion{Group: g, Version: v}
	switch as {
	case "Table":
		a.Rendering = AsTable
		return a, can == TablesToo && a.Format != Protobuf // Table has no protobuf form
	case "PartialObjectMetadata":
		a.Rendering = AsPartial
	case "PartialObjectMetadataList":
		a.Rendering = AsPartialList
	default:
		return a, false
	}
	return a, true
}

// wantsPretty follows upstream: the pretty parameter, else whether a human's tool is asking.
func wantsPretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty") {
		if v := r.URL.Query().Get("pretty"); v != "" {
			pretty, _ := strconv.ParseBool(v)
			return pretty
		}
	}
	ua := r.UserAgent()
	return strings.HasPrefix(ua, "curl") || strings.HasPrefix(ua, "Wget") || strings.HasPrefix(ua, "Mozilla/5.0")
}

// BodyFormat returns the encoding of r's body; no Content-Type means JSON. The error is a 415 Status.
func BodyFormat(r *http.Request) (Format, error) {
	ct := r.Header.Get("Content-Type")
	switch ct {
	case "", MediaJSON:
		return JSON, nil
	case MediaProtobuf:
		return Protobuf, nil
	}
	if mt, _, err := mime.ParseMediaType(ct); err == nil {
		for f, name := range mediaTypes {
			if mt == name {
				return Format(f), nil
			}
		}
	}
	return 0, UnsupportedMediaType(MediaJSON, MediaYAML, MediaProtobuf)
}
