package verbs

import (
	"slices"
	"strings"
	"unicode/utf8"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// A client may send a body with a million unknown fields, and many clients refuse an answer whose header is long. So, as upstream, what is
// warned of has a bound in letters; past it every warning is cut, and what still does not fit is left out.
const (
	maxWarned       = 4096
	maxWarnedOfEach = 256
)

// warnings are those of one answer.
type warnings struct {
	texts   []string // what has been said, whole
	letters int      // of all texts as they stand in the header
	cut     bool     // texts are cut from now on
}

// Warn adds Warning headers (RFC 7234, code 299) to the answer: one, or one for each finding of a YAML reader, which come as lines below a heading.
func (r *Request) Warn(text string) {
	head, findings, yaml := strings.Cut(text, "yaml: unmarshal errors:\n")
	if !yaml || head != "" && head != "error converting YAML to JSON: " {
		r.warn(text)
		return
	}
	for line := range strings.SplitSeq(findings, "\n") {
		r.warn(strings.TrimSpace(line))
	}
}

// AddWarning implements k8s.io/apiserver/pkg/warning.Recorder for admission and kinds.
func (r *Request) AddWarning(_, text string) { r.Warn(text) }

func (r *Request) warn(text string) {
	w := &r.warned
	if text == "" || w.cut && w.letters >= maxWarned || slices.Contains(w.texts, text) {
		return
	}
	w.texts = append(w.texts, text)
	if !w.cut && w.letters+utf8.RuneCountInString(text) > maxWarned {
		w.cut, w.letters = true, 0
		r.Writer.Header().Del("Warning")
		for _, text := range w.texts {
			r.writeWarning(text)
		}
		return
	}
	r.writeWarning(text)
}

func (r *Request) writeWarning(text string) {
	w := &r.warned
	if w.cut && w.letters >= maxWarned {
		return
	}
	if w.cut && utf8.RuneCountInString(text) > maxWarnedOfEach {
		text = string([]rune(text)[:maxWarnedOfEach])
	}
	if h, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
		w.letters += utf8.RuneCountInString(text)
		r.Writer.Header().Add("Warning", h)
	}
}
