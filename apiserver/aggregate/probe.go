package aggregate

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// When other servers are asked.
const (
	probeTimeout  = 5 * time.Second
	probeAgain    = 30 * time.Second
	probeSoon     = 5 * time.Millisecond // after a failure, and twice as long after each further one
	probeLatest   = 10 * time.Second     // but never longer: nobody tells when a server is back
	probeAttempts = 5
)

// found is what is known of a Service without asking anybody behind it.
type found struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	err     error // of looking for the Service
}

// judge says whether a server can be there: the condition of its APIService, and whether the server must be asked besides. The
// condition's words are upstream's. Pure.
func judge(ref apiregistrationv1.ServiceReference, f found) (c apiregistrationv1.APIServiceCondition, ask bool) {
	no := func(reason, format string, args ...any) (apiregistrationv1.APIServiceCondition, bool) {
		return apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionFalse, Reason: reason,
			Message: fmt.Sprintf(format, args...)}, false
	}
	switch {
	case apierrors.IsNotFound(f.err):
		return no("ServiceNotFound", "service/%s in %q is not present", ref.Name, ref.Namespace)
	case f.err != nil:
		c, _ := no("ServiceAccessError", "service/%s in %q cannot be checked due to: %v", ref.Name, ref.Namespace, f.err)
		c.Status = apiregistrationv1.ConditionUnknown
		return c, false
	}
	passed := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed"}
	if f.service.Spec.Type != corev1.ServiceTypeClusterIP {
		return passed, true
	}
	i := slices.IndexFunc(f.service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *ref.Port })
	if i < 0 {
		return no("ServicePortError", "service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, *ref.Port)
	}
	if len(f.slices) == 0 {
		return no("EndpointsNotFound", "cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace)
	}
	if port := f.service.Spec.Ports[i].Name; !slices.ContainsFunc(f.slices, func(s *discoveryv1.EndpointSlice) bool { return serves(s, port) }) {
		return no("MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, port)
	}
	return passed, true
}

// serves says whether a slice has a ready endpoint with a port of that name.
func serves(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, ready) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == port && p.Port != nil })
}

func ready(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }

// check returns the condition of a remote. The server is asked when something about it changed, when it left a request unanswered and when its
// time has come, not each time its APIService is looked at.
func (a *Aggregator) check(ctx context.Context, r *remote) apiregistrationv1.APIServiceCondition {
	a.mu.Lock()
	p, gv, uid, generation := r.peer, r.spec.Group+"/"+r.spec.Version, r.uid, connection(&r.spec)
	a.mu.Unlock()
	p.network.wait()
	f := found{}
	if f.service, f.err = p.network.services.Services(p.service.Namespace).Get(p.service.Name); f.err == nil {
		if f.slices, f.err = p.network.GetEndpointSlices(p.service.Namespace, p.service.Name); f.err != nil {
			f.service = nil
		}
	}
	now := time.Now()
	c, ask := judge(p.service, f)
	c.LastTransitionTime = metav1.NewTime(now)
	if !ask {
		// Whatever mends it is an event: nothing is asked until then.
		r.probed, r.answer, r.failures, r.probeAt = "", nil, 0, now.Add(probeAgain)
		return c
	}
	if state := fmt.Sprintf("%s %s %v %s", gv, uid, generation, f.version()); state != r.probed || r.suspect.Load() || !now.Before(r.probeAt) {
		r.suspect.Store(false)
		if state != r.probed {
			r.failures = 0
		}
		path := "/apis/" + gv
		if strings.HasPrefix(gv, "/") {
			path = "/api" + gv
		}
		r.probed, r.answer = state, p.probe(ctx, path, f.attempts())
		if r.answer == nil {
			r.failures, r.probeAt = 0, time.Now().Add(probeAgain)
		} else {
			r.failures++
			r.probeAt = time.Now().Add(backOff(probeSoon, probeLatest, r.failures))
		}
	}
	if r.answer != nil {
		c.Status, c.Reason, c.Message = apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", r.answer.Error()
	}
	return c
}

// version changes when what was found does.
func (f *found) version() string {
	var b strings.Builder
	b.WriteString(f.service.ResourceVersion)
	versions := make([]string, len(f.slices))
	for i, s := range f.slices {
		versions[i] = s.Namespace + "/" + s.Name + "@" + s.ResourceVersion
	}
	slices.Sort(versions)
	for _, v := range versions {
		b.WriteString(" " + v)
	}
	return b.String()
}

// attempts is how often to ask: each time an endpoint is chosen by chance, and one that answers is enough.
func (f *found) attempts() int {
	n := 0
	for _, s := range f.slices {
		for _, e := range s.Endpoints {
			if ready(e) {
				n++
			}
		}
	}
	return min(max(n, 1), probeAttempts)
}

// backOff doubles from first to last.
func backOff(first, last time.Duration, failures int) time.Duration {
	return min(first<<min(failures-1, 20), last)
}

// probe asks the server what an aggregated server must answer, as often as attempts says at once, and is content with one good
// answer.
func (p *peer) probe(ctx context.Context, path string, attempts int) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	answers := make(chan error, attempts)
	var asking sync.WaitGroup
	for range attempts {
		asking.Go(func() { answers <- p.ask(ctx, path) })
	}
	var last error
	for range attempts {
		if last = <-answers; last == nil {
			break
		}
	}
	cancel()
	asking.Wait()
	if last != nil {
		p.close() // the next time on other connections
	}
	return last
}

func (p *peer) ask(ctx context.Context, path string) error {
	u, err := p.locate(path)
	if err != nil {
		return err
	}
	answer, err := p.get(ctx, u, "application/json", "", selfUser, user.SystemPrivilegedGroup)
	switch {
	case err != nil:
		return fmt.Errorf("failing or missing response from %v: %w", u, err)
	case answer.code < http.StatusOK || answer.code >= http.StatusMultipleChoices:
		return fmt.Errorf("failing or missing response from %v: bad status from %v: %d", u, u, answer.code)
	}
	return nil
}
