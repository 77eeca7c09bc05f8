package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	flowcontrolapply "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/client-go/kubernetes"
	flowcontrollisters "k8s.io/client-go/listers/flowcontrol/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver/flow"
	"wherry.dev/wherry/apiserver/verbs"
)

// What a list takes of the server: a seat for so many objects, but no more than maxListSeats.
const (
	objectsPerSeat = 100
	maxListSeats   = 10
)

// newFlow shares the server by the configuration that every cluster begins with, until the stored one is read.
func newFlow(seats int) *flow.Controller {
	mandatoryLevels, levels := kinds.SystemPriorityLevels()
	mandatorySchemas, schemas := kinds.SystemFlowSchemas()
	return flow.New(seats, append(mandatorySchemas, schemas...), append(mandatoryLevels, levels...))
}

// admitted asks for room for a request, and waits for it for a while: a quarter of what the request may take in all. The ticket must be
// given back; a watch's is given back as soon as it begins to answer. The error is a 429.
func (s *Server) admitted(ctx context.Context, w *response, r *verbs.Request) (*flow.Ticket, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.RequestTimeout/4)
	defer cancel()
	ticket, err := s.flow.Enter(ctx, r.User, r.Info, func() int { return s.seats(r) })
	h := w.Header()
	if ticket.SchemaUID != "" {
		h[flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID] = []string{ticket.SchemaUID}
		h[flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID] = []string{ticket.LevelUID}
	}
	if err != nil {
		return nil, apierrors.NewTooManyRequests("The server has received too many requests and has asked us to try again later", 1)
	}
	return ticket, nil
}

// seats is how much of the server a request takes.
func (s *Server) seats(r *verbs.Request) int {
	i := r.Info
	if i.Verb != "list" && i.Verb != "watch" || i.Name != "" {
		return 1
	}
	q := r.Query()
	if i.Verb == "watch" && q.Get("sendInitialEvents") != "true" && q.Get("resourceVersion") != "" && q.Get("resourceVersion") != "0" {
		return 1 // it begins with nothing
	}
	served := s.known(i)
	if served == nil || served.Store == nil {
		return 1
	}
	n := served.Store.Count()
	if limit, err := strconv.Atoi(q.Get("limit")); err == nil && limit > 0 && q.Get("labelSelector") == "" && q.Get("fieldSelector") == "" {
		n = min(n, limit)
	}
	return max(1, min(maxListSeats, (n+objectsPerSeat-1)/objectsPerSeat))
}

// followFlowControl keeps to the stored FlowSchemas and priority levels, writes their statuses and makes those anew that must be there, until
// ctx ends and the returned function is called, which waits for that.
func (s *Server) followFlowControl(ctx context.Context) (wait func()) {
	if s.resource(flowcontrolv1.SchemeGroupVersion.WithResource("flowschemas")) == nil {
		return func() {}
	}
	set := s.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	api := set.Informers.Flowcontrol().V1()
	changed := make(chan struct{}, 1)
	tell := func(any) {
		select {
		case changed <- struct{}{}:
		default: // told already
		}
	}
	var synced []cache.DoneChecker
	for _, i := range []cache.SharedIndexInformer{api.FlowSchemas().Informer(), api.PriorityLevelConfigurations().Informer()} {
		registration, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell})
		if err != nil { // only of an informer that has been stopped
			s.log.Error("follow flow schemas", "error", err)
			return func() {}
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	schemas, levels := api.FlowSchemas().Lister(), api.PriorityLevelConfigurations().Lister()
	set.Informers.Start(ctx.Done())
	var work sync.WaitGroup
	work.Go(func() {
		defer set.Informers.Shutdown()
		for _, c := range synced {
			select {
			case <-c.Done():
			case <-ctx.Done():
				return
			}
		}
		for {
			retry := s.keepFlow(ctx, set.Kubernetes, schemas, levels)
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-retry:
			}
		}
	})
	return work.Wait
}

// keepFlow brings the controller, the statuses and what must be there up to date. It returns when to try again what failed, or nil.
func (s *Server) keepFlow(ctx context.Context, cs kubernetes.Interface, schemaLister flowcontrollisters.FlowSchemaLister, levelLister flowcontrollisters.PriorityLevelConfigurationLister) <-chan time.Time {
	schemas, err := schemaLister.List(labels.Everything())
	if err != nil { // never, of an informer
		return nil
	}
	levels, err := levelLister.List(labels.Everything())
	if err != nil {
		return nil
	}
	s.flow.Configure(schemas, levels)
	there := map[string]bool{}
	for _, l := range levels {
		there["level "+l.Name] = true
	}
	failed := false
	for _, f := range schemas {
		there["schema "+f.Name] = true
		next := dangling(f, there["level "+f.Spec.PriorityLevelConfiguration.Name])
		if next == nil {
			continue
		}
		status := flowcontrolapply.FlowSchema(f.Name).WithStatus(flowcontrolapply.FlowSchemaStatus().WithConditions(next))
		if _, err := cs.FlowcontrolV1().FlowSchemas().ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: flowManager, Force: true}); err != nil && !apierrors.IsNotFound(err) { // of what is gone an event comes
			s.log.Debug("write the status of a flow schema", "name", f.Name, "error", err)
			failed = true
		}
	}
	mandatoryLevels, _ := kinds.SystemPriorityLevels()
	mandatorySchemas, _ := kinds.SystemFlowSchemas()
	missing := false
	for _, l := range mandatoryLevels {
		missing = missing || !there["level "+l.Name]
	}
	for _, f := range mandatorySchemas {
		missing = missing || !there["schema "+f.Name]
	}
	if missing {
		if err := s.keepFlowControl(ctx, cs); err != nil {
			s.log.Warn("make flow schemas anew that must be there", "error", err)
			failed = true
		}
	}
	if failed && ctx.Err() == nil {
		return time.After(bootstrapRetry)
	}
	return nil
}

// flowManager is upstream's name for what keeps the statuses of flow schemas.
const flowManager = "api-priority-and-fairness-config-consumer-v1"

// dangling returns the condition of f that says whether its priority level is there; nil when f has it already.
func dangling(f *flowcontrolv1.FlowSchema, found bool) *flowcontrolapply.FlowSchemaConditionApplyConfiguration {
	status, reason := flowcontrolv1.ConditionTrue, "NotFound"
	message := fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", f.Spec.PriorityLevelConfiguration.Name)
	if found {
		status, reason = flowcontrolv1.ConditionFalse, "Found"
		message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", f.Spec.PriorityLevelConfiguration.Name)
	}
	since := metav1.Now()
	for i := range f.Status.Conditions {
		c := &f.Status.Conditions[i]
		if c.Type != flowcontrolv1.FlowSchemaConditionDangling || c.Status != status {
			continue
		}
		if c.Reason == reason && c.Message == message {
			return nil
		}
		since = c.LastTransitionTime
	}
	return flowcontrolapply.FlowSchemaCondition().WithType(flowcontrolv1.FlowSchemaConditionDangling).WithStatus(status).WithReason(reason).WithMessage(message).WithLastTransitionTime(since)
}

// holdsSeats says whether a request takes room: all but streams; of watches only the beginning.
func holdsSeats(r *verbs.Request, long bool) bool {
	return !long || r.Info.Verb == "watch" && r.HTTP.Method == http.MethodGet
}
