// Package authz answers the third question of the story (C3): may they? It decides by the user's group (system:masters),
// by what a node needs for the pods that run on it (Node), and by roles and bindings (RBAC), in that order. All that it
// needs is kept indexed in memory by informers, so a decision costs about a microsecond and no allocation. The API
// server imports it; components ask through SubjectAccessReview.
package authz

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/client"
)

// Config of an Authorizer. The zero value is good.
type Config struct {
	// SyncTimeout bounds how long a request waits for roles and bindings to be read after start. Default 10 s.
	SyncTimeout time.Duration
	// Served says whether a resource is served; informers are made for those only. Nil: only what the first version serves.
	Served func(schema.GroupVersionResource) bool
}

// Authorizer is the union of system:masters and what Configure says, Node and RBAC unless told otherwise. It is built before the API server can serve itself:
// until Initialize it knows system:masters only, and lets others wait. Safe for concurrent use.
type Authorizer struct {
	config  Config
	rbac    *rbacIndex
	graph   *graph
	synced  chan struct{} // closed when the informers' first objects are in the indexes
	started atomic.Bool

	configured *configured // nil without Configure
	steps      atomic.Pointer[[]step]
}

// New returns an authorizer that is not initialized yet.
func New(c Config) *Authorizer {
	if c.SyncTimeout == 0 {
		c.SyncTimeout = 10 * time.Second
	}
	a := &Authorizer{config: c, rbac: newRBACIndex(), graph: newGraph(), synced: make(chan struct{})}
	a.steps.Store(&[]step{{mode: modeNode, name: "node"}, {mode: modeRBAC, name: "rbac"}})
	return a
}

// Initialize gives the authorizer an in-process client, whose identity must be in system:masters, and registers with its
// informers, which the caller starts afterwards. A goroutine ends when they have synced or ctx ends. Only the first call counts.
func (a *Authorizer) Initialize(ctx context.Context, set *client.Set) error {
	if a.started.Swap(true) {
		return nil
	}
	rbac, err := a.rbac.follow(set)
	if err != nil {
		return err
	}
	graph, err := a.graph.follow(set, a.config.Served)
	if err != nil {
		return err
	}
	go func() {
		for _, synced := range append(rbac, graph...) {
			select {
			case <-synced.Done():
			case <-ctx.Done():
				return
			}
		}
		close(a.synced)
	}()
	return nil
}

// Synced is closed when every decision is made on complete data.
func (a *Authorizer) Synced() <-chan struct{} { return a.synced }

var errNotSynced = errors.New("roles and bindings have not been read yet; try again in a moment")

// wait returns when the indexes are complete, or an error when that takes too long.
func (a *Authorizer) wait(ctx context.Context) error {
	select {
	case <-a.synced:
		return nil
	default:
	}
	timer := time.NewTimer(a.config.SyncTimeout)
	defer timer.Stop()
	select {
	case <-a.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errNotSynced
	}
}

func isMaster(u user.Info) bool {
	for _, group := range u.GetGroups() {
		if group == user.SystemPrivilegedGroup {
			return true
		}
	}
	return false
}

// Authorize implements authorizer.Authorizer. Reasons are upstream's; they are made when a role is indexed, not here.
func (a *Authorizer) Authorize(ctx context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	who := attributes.GetUser()
	if who == nil {
		return authorizer.DecisionDeny, "", errors.New("no user on request")
	}
	if isMaster(who) {
		return authorizer.DecisionAllow, "", nil
	}
	var reasons []string
	var failures []error
	for _, s := range *a.steps.Load() {
		var decision authorizer.Decision
		var reason string
		var err error
		switch s.mode {
		case modeNode, modeRBAC:
			if err := a.wait(ctx); err != nil {
				return authorizer.DecisionNoOpinion, "", err
			}
			if s.mode == modeRBAC {
				decision, reason = a.byRBAC(attributes)
			} else if node, ok := nodeName(who); ok {
				decision, reason = a.graph.authorizeNode(ctx, node, attributes)
			} else {
				decision = authorizer.DecisionNoOpinion
			}
		case modeAlwaysAllow:
			decision = authorizer.DecisionAllow
		case modeAlwaysDeny:
			decision, reason = authorizer.DecisionNoOpinion, "Everything is forbidden."
		default:
			decision, reason, err = s.hook.Authorize(ctx, attributes)
		}
		if decision != authorizer.DecisionNoOpinion {
			return decision, reason, err
		}
		if reason != "" {
			reasons = append(reasons, s.name+": "+reason)
		}
		if err != nil {
			failures = append(failures, err)
		}
	}
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), errors.Join(failures...)
}

// byRBAC decides by roles and bindings alone.
func (a *Authorizer) byRBAC(attributes authorizer.Attributes) (authorizer.Decision, string) {
	allowed, reason, err := a.rbac.authorize(attributes)
	if allowed {
		return authorizer.DecisionAllow, reason
	}
	if err != nil {
		reason = "RBAC: " + err.Error()
	}
	return authorizer.DecisionNoOpinion, reason
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; decisions are never conditional.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attributes authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attributes))
}

// EvaluateConditions implements authorizer.Authorizer.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
