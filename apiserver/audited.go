package apiserver

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"wherry.dev/wherry/apiserver/audit"
	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
)

// recordAnswer tells the audit what is answered, if it wants to know. encoded is the answer as the client gets it.
func (s *Server) recordAnswer(r *verbs.Request, served *verbs.Served, a verbs.Answer, encoded []byte) {
	ctx := r.HTTP.Context()
	if st, ok := a.Object.(*metav1.Status); ok {
		audit.AnsweredStatus(ctx, st)
		return
	}
	if !audit.WantsAnswer(ctx) {
		return
	}
	if r.Accept.Format != wire.JSON {
		each := *r
		each.Accept.Format = wire.JSON
		var err error
		if encoded, err = s.encoded(&each, served, a); err != nil {
			return // it has just been encoded otherwise
		}
	}
	audit.Answered(ctx, encoded)
}
