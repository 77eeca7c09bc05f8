package verbs

import (
	"time"

	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/trace"
)

func (s *Served) isPod() bool {
	gvk := s.Kind.GroupVersionKind
	return gvk.Group == "" && gvk.Kind == "Pod"
}

// recordCreation adds stages C1 to C5 to the pod's trace, now that the pod, and so the trace, exists.
func (s *Served) recordCreation(r *Request, namespace, name, uid string) {
	if s.Trace == nil || !s.isPod() {
		return
	}
	m := r.Marks
	who := []trace.Attr{{Key: "user", Value: r.User.GetName()}}
	for _, st := range []struct {
		stage      lifecycle.Stage
		start, end time.Time
		attrs      []trace.Attr
	}{
		{lifecycle.Request, m.Received, m.Stored, []trace.Attr{{Key: "user-agent", Value: r.HTTP.UserAgent()}}},
		{lifecycle.Authenticate, m.Received, m.Authenticated, who},
		{lifecycle.Authorize, m.Authenticated, m.Authorized, nil},
		{lifecycle.Admit, m.Authorized, m.Admitted, nil},
		{lifecycle.Store, m.Admitted, m.Stored, nil},
	} {
		s.span(namespace, name, uid, st.stage, st.start, st.end, st.attrs)
	}
}

// recordDeletion adds D1 (marked) or D6 (gone) to the pod's trace.
func (s *Served) recordDeletion(r *Request, namespace, name, uid string, gone bool) {
	if s.Trace == nil || !s.isPod() {
		return
	}
	stage := lifecycle.Delete
	if gone {
		stage = lifecycle.Forget
	}
	s.span(namespace, name, uid, stage, r.Marks.Received, time.Now(), []trace.Attr{{Key: "user", Value: r.User.GetName()}})
}

func (s *Served) span(namespace, name, uid string, stage lifecycle.Stage, start, end time.Time, attrs []trace.Attr) {
	s.Trace.Record(trace.Span{PodUID: uid, Namespace: namespace, Pod: name, Stage: stage, Component: "apiserver",
		Start: start, End: end, Outcome: trace.OK, Attrs: attrs})
}
