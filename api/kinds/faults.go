package kinds

import (
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// where is a place in an object, as a chain of steps up to the root. Unlike field.Path a step lives on the stack of
// the check that goes through it, and becomes a path only when there is something to complain about: a right object
// costs no allocation. For that to stay true a *where is never kept and never passed through an interface or a
// function value.
type where struct {
	up    *where
	name  string
	index int
	kind  stepKind
}

type stepKind uint8

const (
	stepField stepKind = iota // .name
	stepIndex                 // [index]
	stepKey                   // [name]
)

func (w *where) field(name string) *where { return &where{up: w, name: name} }
func (w *where) at(i int) *where          { return &where{up: w, index: i, kind: stepIndex} }
func (w *where) key(k string) *where      { return &where{up: w, name: k, kind: stepKey} }

// path spells the place out. A nil place is the nil path.
func (w *where) path() *field.Path {
	if w == nil {
		return nil
	}
	up := w.up.path()
	if w.kind == stepIndex {
		return up.Index(w.index)
	}
	// The clone keeps the compiler from thinking that the path holds on to the step, and so to all steps up to the root.
	switch name := strings.Clone(w.name); {
	case w.kind == stepKey:
		return up.Key(name)
	case up == nil:
		return field.NewPath(name)
	default:
		return up.Child(name)
	}
}

// whereOf is the place that a finished path names.
func whereOf(path *field.Path) *where { return &where{name: path.String()} }

// faults gathers what is wrong with an object, one error for each wrong field, in the order of the checks. Past mostFaults
// nobody reads on: the rest is not kept, so that an answer stays smaller than a hostile request.
type faults struct {
	list field.ErrorList
}

const mostFaults = 1000

func (f *faults) keep(err *field.Error) {
	if len(f.list) < mostFaults {
		f.list = append(f.list, err)
	}
}

func (f *faults) required(w *where, detail string) {
	f.keep(field.Required(w.path(), detail))
}

func (f *faults) invalid(w *where, value any, detail string) {
	f.keep(field.Invalid(w.path(), value, detail))
}

func (f *faults) forbidden(w *where, detail string) {
	f.keep(field.Forbidden(w.path(), detail))
}

func (f *faults) duplicate(w *where, value any) {
	f.keep(field.Duplicate(w.path(), value))
}

func (f *faults) tooLong(w *where, value string, limit int) {
	f.keep(field.TooLong(w.path(), value, limit))
}

func (f *faults) internal(w *where, err error) {
	f.keep(field.InternalError(w.path(), err))
}

func (f *faults) notFound(w *where, value any) {
	f.keep(field.NotFound(w.path(), value))
}

// notSupported says that value is none of supported.
func notSupported[T ~string](f *faults, w *where, value T, supported []T) {
	f.keep(field.NotSupported(w.path(), value, supported))
}

// oneOf checks a required choice: empty is Required, anything but one of supported (in upstream's order) is NotSupported.
func oneOf[T ~string](f *faults, w *where, value T, supported []T) {
	if value == "" {
		f.required(w, "")
		return
	}
	oneOfOrEmpty(f, w, value, supported)
}

// oneOfOrEmpty checks a choice that may be left out.
func oneOfOrEmpty[T ~string](f *faults, w *where, value T, supported []T) {
	if value == "" {
		return
	}
	knownValue(f, w, value, supported)
}

// knownValue checks a choice for which the empty string is as wrong as any other unknown word.
func knownValue[T ~string](f *faults, w *where, value T, supported []T) {
	for _, s := range supported {
		if s == value {
			return
		}
	}
	notSupported(f, w, value, supported)
}

// each makes an Invalid of every sentence about value.
func (f *faults) each(w *where, value string, sentences []string) {
	for _, s := range sentences {
		f.invalid(w, value, s)
	}
}

// annotations checks keys and total size of annotations.
func (f *faults) annotations(w *where, annotations map[string]string) {
	if len(annotations) > 0 {
		f.add(apivalidation.ValidateAnnotations(annotations, w.path()))
	}
}

// add takes over errors that were found elsewhere.
func (f *faults) add(errs field.ErrorList) {
	for _, err := range errs {
		f.keep(err)
	}
}

func (f *faults) notNegative(w *where, value int64) {
	if value < 0 {
		f.invalid(w, value, "must be greater than or equal to 0")
	}
}

// dnsLabel checks an RFC 1123 label.
func (f *faults) dnsLabel(w *where, value string) {
	if !isDNSLabel(value) {
		f.each(w, value, validation.IsDNS1123Label(value))
	}
}

// dnsSubdomain checks an RFC 1123 subdomain.
func (f *faults) dnsSubdomain(w *where, value string) {
	if !isDNSSubdomain(value) {
		f.each(w, value, validation.IsDNS1123Subdomain(value))
	}
}

// qualifiedName checks a name with an optional DNS prefix, such as a label key.
func (f *faults) qualifiedName(w *where, value string) {
	if !isPlainQualifiedName(value) {
		f.each(w, value, validation.IsQualifiedName(value))
	}
}

// port checks a port number, 1 to 65535.
func (f *faults) port(w *where, port int32) {
	if port < 1 || port > 65535 {
		f.eachNumber(w, port, validation.IsValidPortNum(int(port)))
	}
}

// eachNumber is each for values that are no strings.
func (f *faults) eachNumber(w *where, value any, sentences []string) {
	for _, s := range sentences {
		f.invalid(w, value, s)
	}
}

// The functions below say quickly whether a name is right. On false, apimachinery is asked for the sentences, so
// they may err on the side of false.

// isDNSLabel reports whether s is an RFC 1123 label: up to 63 lower-case letters, digits and inner dashes.
func isDNSLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !lowerAlnum(c) && c != '-' {
			return false
		}
	}
	return true
}

// isDNSSubdomain reports whether s is an RFC 1123 subdomain: up to 253 bytes of labels (of any length) joined by dots.
func isDNSSubdomain(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	edge := true // the byte before was a dot or the start
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case lowerAlnum(c):
			edge = false
		case edge:
			return false
		case c == '-':
			if i+1 == len(s) || s[i+1] == '.' {
				return false
			}
		case c == '.':
			edge = true
		default:
			return false
		}
	}
	return !edge
}

// isPlainQualifiedName reports whether s is a qualified name: [subdomain/]name with name of up to 63
// letters, digits, and inner dashes, dots and underscores.
func isPlainQualifiedName(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '/' {
			if !isDNSSubdomain(s[:i]) {
				return false
			}
			s = s[i+1:]
			break
		}
	}
	return len(s) > 0 && isPlainLabelValue(s)
}

// isPlainLabelValue reports whether s is empty or 63 letters, digits, and inner dashes, dots and underscores.
func isPlainLabelValue(s string) bool {
	if len(s) == 0 {
		return true
	}
	if len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func lowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func alnum(c byte) bool { return lowerAlnum(c) || 'A' <= c && c <= 'Z' }
