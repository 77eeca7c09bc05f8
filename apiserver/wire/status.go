package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/apiserver/audit"
)

// NotAcceptable is the 406 answer to an Accept header that nothing here satisfies.
func NotAcceptable(stream bool) error {
	list := []string{MediaJSON, MediaYAML, MediaProtobuf}
	if stream {
		list = []string{MediaJSON + ";stream=watch", MediaProtobuf + ";stream=watch"}
	}
	return notAcceptable(list...)
}

func notAcceptable(list ...string) error {
	return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+strings.Join(list, ", "))
}

// UnsupportedMediaType is the 415 answer to a Content-Type that is not among the accepted.
func UnsupportedMediaType(accepted ...string) error {
	return failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(accepted, ", "))
}

func failure(code int32, reason metav1.StatusReason, message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// StatusOf returns err as the Status a client sees. An error that carries none is a 500.
func StatusOf(err error) *metav1.Status {
	var carrier apierrors.APIStatus
	if errors.As(err, &carrier) {
		s := carrier.Status()
		if s.Status == "" {
			s.Status = metav1.StatusFailure
		}
		if s.Code == 0 {
			s.Code = http.StatusInternalServerError
			if s.Status == metav1.StatusSuccess {
				s.Code = http.StatusOK
			}
		}
		s.Kind, s.APIVersion = "Status", "v1"
		return &s
	}
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: err.Error()}
}

// WriteError answers with err's Status, in the encoding r asks for or JSON, and returns the code.
func WriteError(w http.ResponseWriter, r *http.Request, err error) int {
	s := StatusOf(err)
	audit.AnsweredStatus(r.Context(), s)
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	a, nerr := Negotiate(r, TablesToo, false)
	if nerr != nil {
		a = Accept{Pretty: true}
	}
	a.Rendering = AsObject
	WriteObject(w, r, a, int(s.Code), schema.GroupVersionKind{Version: "v1", Kind: "Status"}, s)
	return int(s.Code)
}

// Forbidden is the 403 answer with the sentence that kubectl prints.
func Forbidden(a authorizer.Attributes, reason string) error {
	msg := "forbidden: " + ForbiddenMessage(a)
	if reason != "" {
		msg += ": " + reason
	}
	details := &metav1.StatusDetails{}
	if a.IsResourceRequest() {
		gr := schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}
		prefix := gr.String()
		if n := a.GetName(); n != "" {
			prefix = fmt.Sprintf("%s %q is ", prefix, n)
		} else {
			prefix += " is "
		}
		msg = prefix + msg
		details = &metav1.StatusDetails{Group: gr.Group, Kind: gr.Resource, Name: a.GetName()}
	}
	e := failure(http.StatusForbidden, metav1.StatusReasonForbidden, msg)
	e.ErrStatus.Details = details
	return e
}

// ForbiddenMessage says who cannot do what, in upstream's words.
func ForbiddenMessage(a authorizer.Attributes) string {
	name := "<none>"
	if u := a.GetUser(); u != nil {
		name = u.GetName()
	}
	if !a.IsResourceRequest() {
		return fmt.Sprintf("User %q cannot %s path %q", name, a.GetVerb(), a.GetPath())
	}
	resource := a.GetResource()
	if s := a.GetSubresource(); s != "" {
		resource += "/" + s
	}
	if ns := a.GetNamespace(); ns != "" {
		return fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q", name, a.GetVerb(), resource, a.GetAPIGroup(), ns)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q at the cluster scope", name, a.GetVerb(), resource, a.GetAPIGroup())
}

// WriteRawJSON answers with a value that is no API object.
func WriteRawJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", MediaJSON)
	w.WriteHeader(code)
	w.Write(b)
}
