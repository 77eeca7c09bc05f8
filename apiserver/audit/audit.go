// Package audit keeps the record of who asked what of the API, and what came of it: by the rules of a policy file
// (audit.k8s.io/v1), into a log file, to a webhook, or both. The request path (apiserver/chain.go) tells it of each stage
// of a request; the events, the policy's meaning and the back ends are k8s.io/apiserver's. The API server and the wiring
// import it.
//
// Who does not audit pays nothing: without an Auditor no request has a Record, and everything here does nothing with a nil one.
package audit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditapi "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Annotations by which an event tells how the request was authorized, as upstream names them.
const (
	decisionKey = "authorization.k8s.io/decision"
	reasonKey   = "authorization.k8s.io/reason"
)

// Annotations by which an event tells that what was asked for is deprecated, and which release will not have it.
const (
	deprecatedKey = "k8s.io/deprecated"
	removedKey    = "k8s.io/removed-release"
)

// Auditor decides what is recorded of each request, and hands it on. Safe for concurrent use. A nil Auditor records nothing.
type Auditor struct {
	policy  audit.PolicyRuleEvaluator
	backend audit.Backend
	stop    chan struct{}
}

// New reads the policy and opens the back ends. It returns nil when the configuration names neither a policy nor a back end.
// Nothing runs before Start.
func New(c Config) (*Auditor, error) {
	if c.PolicyFile == "" && c.Log.Path == "" && c.Webhook.ConfigFile == "" {
		return nil, nil
	}
	if c.PolicyFile == "" {
		return nil, errors.New("audit: there is a place for events but no policy, and without one nothing is recorded: name a file with --audit-policy-file")
	}
	rules, err := policy.LoadPolicyFromFile(c.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("audit policy: %w", err)
	}
	backend, err := c.backend()
	if err != nil {
		return nil, err
	}
	return &Auditor{policy: policy.NewPolicyRuleEvaluator(rules), backend: backend, stop: make(chan struct{})}, nil
}

// Start lets the back ends work until Close.
func (a *Auditor) Start() error {
	if a == nil {
		return nil
	}
	if err := a.backend.Run(a.stop); err != nil {
		return fmt.Errorf("start auditing to %s: %w", a.backend, err)
	}
	return nil
}

// Close hands on what is still held, and stops. It comes after the last request; only the first call after Start may be made.
func (a *Auditor) Close() {
	if a == nil {
		return
	}
	close(a.stop)
	a.backend.Shutdown()
}

// Record is what is known of one request so far. A nil Record records nothing.
type Record struct {
	context           *audit.AuditContext
	ctx               context.Context
	level             auditapi.Level
	omitManagedFields bool
	long              bool        // its start is worth an event of its own
	answer            atomic.Bool // its answer has begun
	ended             bool        // it has had its last event, or shall have none
}

type recordKey struct{}

// from finds the record of the request that ctx belongs to, nil when it is not audited.
func from(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// ErrNotStored is why a request is refused that the policy wants recorded when the record cannot be written
// (--audit-log-mode=blocking-strict).
var ErrNotStored = errors.New("failed to store audit event")

// Begin makes the record of a request whose sender is known, and the first event of it. The returned context carries the record to
// whoever has an annotation or an object to add. attributes are those of who really sends it, whomever they act as.
func (a *Auditor) Begin(ctx context.Context, r *http.Request, id string, received time.Time, attributes authorizer.Attributes, long bool) (context.Context, *Record, error) {
	ctx, record := a.evaluate(ctx, r, id, received, attributes)
	if record == nil {
		return ctx, nil, nil
	}
	record.long = long
	if !record.context.ProcessEventStage(ctx, auditapi.StageRequestReceived) {
		audit.ApiserverAuditDroppedCounter.WithContext(ctx).Inc()
		return ctx, nil, ErrNotStored
	}
	return ctx, record, nil
}

// Refused makes the record of a request whose sender could not be authenticated. Its answer is its only event.
func (a *Auditor) Refused(ctx context.Context, r *http.Request, id string, received time.Time, attributes authorizer.Attributes) (context.Context, *Record) {
	ctx, record := a.evaluate(ctx, r, id, received, attributes)
	if record == nil {
		return ctx, nil
	}
	record.long, record.ended = true, true
	record.context.SetEventResponseStatus(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonUnauthorized, Message: attempted(r)})
	return ctx, record
}

func (a *Auditor) evaluate(ctx context.Context, r *http.Request, id string, received time.Time, attributes authorizer.Attributes) (context.Context, *Record) {
	if a == nil {
		return ctx, nil
	}
	rules := a.policy.EvaluatePolicyRule(attributes)
	audit.ObservePolicyLevel(ctx, rules.Level)
	if rules.Level == auditapi.LevelNone {
		return ctx, nil
	}
	ctx = audit.WithAuditContext(ctx)
	audit.WithAuditID(ctx, types.UID(id))
	record := &Record{context: audit.AuditContextFrom(ctx), level: rules.Level, omitManagedFields: rules.OmitManagedFields}
	ctx = context.WithValue(ctx, recordKey{}, record)
	record.ctx = ctx
	if err := record.context.Init(rules, a.backend); err != nil { // only for a context that has come here before
		return ctx, nil
	}
	audit.LogRequestMetadata(ctx, r, received, attributes)
	return ctx, record
}

// attempted says with what kind of credential somebody tried, never with which.
func attempted(r *http.Request) string {
	var methods []string
	scheme, _, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	switch strings.ToLower(scheme) {
	case "basic":
		methods = append(methods, "basic")
	case "bearer":
		methods = append(methods, "bearer")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		methods = append(methods, "x509")
	}
	if len(methods) == 0 {
		return "Authentication failed, no credentials provided"
	}
	return "Authentication failed, attempted: " + strings.Join(methods, ", ")
}

// Impersonated records as whom the sender acts.
func (r *Record) Impersonated(as user.Info, constraint string) {
	if r != nil {
		r.context.LogImpersonatedUser(as, constraint)
	}
}

// Authorized records what the authorizer said.
func (r *Record) Authorized(decision authorizer.Decision, reason string, err error) {
	switch {
	case r == nil:
	case decision == authorizer.DecisionAllow:
		audit.AddAuditAnnotations(r.ctx, decisionKey, "allow", reasonKey, reason)
	case err != nil:
		audit.AddAuditAnnotation(r.ctx, reasonKey, "internal error")
	default:
		audit.AddAuditAnnotations(r.ctx, decisionKey, "forbid", reasonKey, reason)
	}
}

// Deprecated records that what was asked for is deprecated; removed is the release that will not have it, if known.
func (r *Record) Deprecated(removed string) {
	if r == nil {
		return
	}
	audit.AddAuditAnnotation(r.ctx, deprecatedKey, "true")
	if removed != "" {
		audit.AddAuditAnnotation(r.ctx, removedKey, removed)
	}
}

// Answering records with which code the answer begins. Only the first call counts. A watch or a stream tells of that with an event.
func (r *Record) Answering(code int) {
	if r == nil || r.answer.Swap(true) {
		return
	}
	r.context.SetEventResponseStatusCode(int32(code))
	if r.long {
		r.context.ProcessEventStage(r.ctx, auditapi.StageResponseStarted)
	}
}

// Complete makes the last event of a request.
func (r *Record) Complete() {
	if r == nil || r.ended {
		return
	}
	r.ended = true
	if !r.answer.Load() { // the client went away before it was answered
		r.context.SetEventResponseStatus(&metav1.Status{Code: http.StatusOK, Status: metav1.StatusSuccess, Message: "Connection closed early"})
		if r.long {
			r.context.ProcessEventStage(r.ctx, auditapi.StageResponseStarted)
		}
	}
	r.context.ProcessEventStage(r.ctx, auditapi.StageResponseComplete)
}

// Panicked makes the last event of a request whose handler panicked.
func (r *Record) Panicked(p any) {
	if r == nil || r.ended {
		return
	}
	r.ended = true
	r.context.SetEventResponseStatus(&metav1.Status{Code: http.StatusInternalServerError, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: fmt.Sprintf("APIServer panic'd: %v", p)})
	r.context.ProcessEventStage(r.ctx, auditapi.StagePanic)
}
