package wire

import (
	"bytes"
	"compress/gzip"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	cbordirect "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/api/scheme"
)

// MaxBody is the largest request body, upstream's 3 MiB.
const MaxBody = 3 << 20

// ReadBody reads the whole body, uncompressing gzip, and refuses one over MaxBody with a 413 Status.
func ReadBody(r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > MaxBody {
		return nil, tooLarge()
	}
	var in io.Reader = r.Body
	size := r.ContentLength
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("read gzip body: %v", err))
		}
		defer z.Close()
		in, size = z, -1
	default:
		return nil, failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, fmt.Sprintf("the content encoding %q is not supported", enc))
	}
	if size >= 0 { // the usual case: one allocation of the right size
		b := make([]byte, size)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, bodyError(err)
		}
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(in, MaxBody+1))
	if err != nil {
		return nil, bodyError(err)
	}
	if len(b) > MaxBody {
		return nil, tooLarge()
	}
	return b, nil
}

func bodyError(err error) error {
	var netTimeout interface{ Timeout() bool }
	if errors.As(err, &netTimeout) && netTimeout.Timeout() {
		return apierrors.NewTimeoutError("the request's body did not arrive in time", 0)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("read body: %v", err))
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", MaxBody))
}

// Directive is what to do about unknown and duplicate fields (KEP-2885).
type Directive string

// ParseDirective reads the fieldValidation parameter; none means Warn.
func ParseDirective(s string) Directive {
	if s == "" {
		return metav1.FieldValidationWarn
	}
	return Directive(s)
}

// Decoder reads request bodies. Immutable; safe for concurrent use.
type Decoder struct {
	lax, strict [4]runtime.Decoder // by Format
}

// NewDecoder makes the decoders of every format.
func NewDecoder() *Decoder {
	s := scheme.Scheme
	pb := protobuf.NewSerializer(s, s)
	of := func(yaml, strict bool) runtime.Decoder {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, s, s, json.SerializerOptions{Yaml: yaml, Strict: strict})
	}
	return &Decoder{
		lax:    [4]runtime.Decoder{JSON: of(false, false), YAML: of(true, false), Protobuf: pb, CBOR: cbor.NewSerializer(s, s)},
		strict: [4]runtime.Decoder{JSON: of(false, true), YAML: of(true, true), Protobuf: pb, CBOR: cbor.NewSerializer(s, s, cbor.Strict(true))},
	}
}

// Object decodes data, which must be of type want, into a fresh object made by make. Unknown and duplicate fields are
// ignored, reported through warn, or refused, as d says. Errors are 400 Statuses in upstream's words.
func (dec *Decoder) Object(data []byte, f Format, d Directive, want schema.GroupVersionKind, make func() runtime.Object, warn func(string)) (runtime.Object, error) {
	decoder := dec.strict[f]
	if d == metav1.FieldValidationIgnore {
		decoder = dec.lax[f]
	}
	obj, gvk, err := decoder.Decode(data, &want, make())
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok || obj == nil || d != metav1.FieldValidationWarn {
			return nil, decodeError(err, want.Kind, gvk, data)
		}
		for _, e := range strict.Errors() {
			warn(e.Error())
		}
	}
	if gvk != nil && *gvk != want {
		if gvk.Kind != want.Kind {
			return nil, decodeError(fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", gvk.Version, gvk.Kind, want.Version, want.Kind), want.Kind, gvk, data)
		}
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", gvk.GroupVersion(), want.GroupVersion()))
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, nil
}

// Reason is what is wrong with data that could not be decoded, without what it was and should have been.
func Reason(message string) string {
	if _, reason, ok := strings.Cut(message, " cannot be handled as a "); ok {
		if _, reason, ok = strings.Cut(reason, ": "); ok {
			return reason
		}
	}
	return message
}

func decodeError(err error, want string, gvk *schema.GroupVersionKind, data []byte) error {
	if gvk != nil && gvk.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, want, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want, err, summary(data)))
}

// summary shows the first bytes of a body that could not be read.
func summary(data []byte) string {
	const most = 30
	switch {
	case len(data) == 0:
		return "<empty>"
	case data[0] != '{':
		if len(data) > most {
			return fmt.Sprintf("%x ...", data[:most])
		}
		return fmt.Sprintf("%x", data)
	case len(data) > most:
		return string(data[:most]) + " ..."
	}
	return string(data)
}

// Options decodes the DeleteOptions that a DELETE carries as its body. Clients send them under v1, meta.k8s.io/v1 or
// the group of the resource, so only the kind is looked at.
func (dec *Decoder) Options(data []byte, f Format) (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	var err error
	switch f {
	case Protobuf:
		u := runtime.Unknown{}
		if !bytes.HasPrefix(data, []byte("k8s\x00")) {
			err = errors.New("provided data does not appear to be a protobuf message")
		} else if err = u.Unmarshal(data[4:]); err == nil {
			if err = o.Unmarshal(u.Raw); err == nil {
				o.APIVersion, o.Kind = u.APIVersion, u.Kind
			}
		}
	case CBOR:
		err = cbordirect.Unmarshal(data, o)
	case YAML:
		if data, err = yaml.YAMLToJSON(data); err == nil {
			err = kjson.UnmarshalCaseSensitivePreserveInts(data, o)
		}
	default:
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, o)
	}
	if err != nil {
		return nil, decodeError(err, "DeleteOptions", nil, data)
	}
	if o.Kind != "" && o.Kind != "DeleteOptions" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("decoded object cannot be converted to DeleteOptions: it is a %s", o.Kind))
	}
	return o, nil
}

// Custom decodes data, which must be of type want, into an Unstructured. prune takes away what the schema does not know and says
// what that was, which like duplicate fields is ignored, reported through warn, or refused, as d says. Protobuf has no form for it: a 415.
func (dec *Decoder) Custom(data []byte, f Format, d Directive, want schema.GroupVersionKind, prune func(runtime.Object) ([]string, error), warn func(string)) (runtime.Object, error) {
	content := map[string]any{}
	var strict []error
	var err error
	switch f {
	case Protobuf:
		return nil, UnsupportedMediaType(MediaJSON, MediaYAML)
	case CBOR:
		err = cbordirect.Unmarshal(data, &content)
	case YAML:
		if _, serr := yaml.YAMLToJSONStrict(data); serr != nil {
			strict = append(strict, serr)
		}
		if data, err = yaml.YAMLToJSON(data); err == nil {
			err = kjson.UnmarshalCaseSensitivePreserveInts(data, &content)
		}
	default:
		var is struct {
			APIVersion string `json:"apiVersion,omitempty"`
			Kind       string `json:"kind,omitempty"`
		}
		if err = stdjson.Unmarshal(data, &is); err != nil {
			err = fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
			break
		}
		strict, err = kjson.UnmarshalStrict(data, &content)
	}
	if err == nil && content["kind"] == nil {
		err = runtime.NewMissingKindErr(string(data))
	}
	if err != nil {
		return nil, decodeError(err, want.Kind, nil, data)
	}
	obj := &unstructured.Unstructured{Object: content}
	got := obj.GroupVersionKind()
	if got.GroupVersion() != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", obj.GetAPIVersion(), want.GroupVersion()))
	}
	if got.Kind != want.Kind { // refused by validation, to upstream
		return nil, apierrors.NewInvalid(got.GroupKind(), obj.GetName(), field.ErrorList{field.Invalid(field.NewPath("kind"), got.Kind, "must be "+want.Kind)})
	}
	if prune != nil {
		unknown, err := prune(obj)
		if err != nil {
			return nil, decodeError(err, want.Kind, &got, data)
		}
		for _, path := range unknown {
			strict = append(strict, fmt.Errorf("unknown field %q", path))
		}
	}
	if len(strict) > 0 {
		switch d {
		case metav1.FieldValidationStrict:
			return nil, decodeError(runtime.NewStrictDecodingError(strict), want.Kind, &got, data)
		case metav1.FieldValidationWarn:
			for _, e := range strict {
				warn(e.Error())
			}
		}
	}
	return obj, nil
}
