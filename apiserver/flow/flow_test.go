package flow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"wherry.dev/wherry/api/kinds"
)

func limited(name string, shares int32, change func(*flowcontrolv1.LimitedPriorityLevelConfiguration)) *flowcontrolv1.PriorityLevelConfiguration {
	zero := int32(0)
	l := &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LendablePercent: &zero, BorrowingLimitPercent: &zero,
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 4, HandSize: 1, QueueLengthLimit: 3}}}
	if change != nil {
		change(l)
	}
	o := &flowcontrolv1.PriorityLevelConfiguration{Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: l}}
	o.Name, o.UID = name, types.UID("level-"+name)
	return o
}

// byUser sends everything of users whose names begin like the level's to it: user "a1" to level "a".
func byUser(level string, users ...string) *flowcontrolv1.FlowSchema {
	var subjects []flowcontrolv1.Subject
	for _, u := range users {
		subjects = append(subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: u}})
	}
	o := &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{MatchingPrecedence: 1000, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: subjects, NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}}}}}}
	o.Name, o.UID = "to-"+level, types.UID("schema-"+level)
	return o
}

func named(name string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
}

var path = &request.RequestInfo{Verb: "get", Path: "/version"}

func one() int { return 1 }

// enter asks for room at once or not at all.
func enter(c *Controller, who string, seats int) (*Ticket, error) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	return c.Enter(gone, named(who), path, func() int { return seats })
}

// The configuration that every cluster begins with sorts requests as upstream's does.
func TestSystemConfigurationSorts(t *testing.T) {
	mandatoryLevels, levels := kinds.SystemPriorityLevels()
	mandatorySchemas, schemas := kinds.SystemFlowSchemas()
	c := New(600, append(mandatorySchemas, schemas...), append(mandatoryLevels, levels...))
	pods := func(verb, namespace string) *request.RequestInfo {
		return &request.RequestInfo{IsResourceRequest: true, Verb: verb, APIVersion: "v1", Resource: "pods", Namespace: namespace}
	}
	for _, x := range []struct {
		name   string
		groups string
		info   *request.RequestInfo
		want   string
	}{
		{"root", "system:masters", pods("list", ""), "exempt exempt"},
		{"system:node:n1", "system:nodes system:authenticated", &request.RequestInfo{IsResourceRequest: true, Verb: "update", APIGroup: "", Resource: "nodes", Subresource: "status", Name: "n1"}, "system-node-high node-high"},
		{"system:node:n1", "system:nodes system:authenticated", pods("list", ""), "system-nodes system"},
		{"system:kube-controller-manager", "system:authenticated", pods("list", ""), "kube-controller-manager workload-high"},
		{"system:kube-scheduler", "system:authenticated", &request.RequestInfo{IsResourceRequest: true, Verb: "update", APIGroup: "coordination.k8s.io", Resource: "leases", Namespace: "kube-system"}, "system-leader-election leader-election"},
		{"system:serviceaccount:kube-system:a", "system:serviceaccounts system:serviceaccounts:kube-system system:authenticated", pods("list", ""), "kube-system-service-accounts workload-high"},
		{"system:serviceaccount:shop:a", "system:serviceaccounts system:serviceaccounts:shop system:authenticated", pods("list", "shop"), "service-accounts workload-low"},
		{"jane", "system:authenticated", pods("list", "shop"), "global-default global-default"},
		{"jane", "system:authenticated", &request.RequestInfo{Verb: "get", Path: "/healthz"}, "probes exempt"},
		{"nobody", "", pods("list", "shop"), "catch-all catch-all"},
	} {
		s := c.sort(&user.DefaultInfo{Name: x.name, Groups: strings.Fields(x.groups)}, x.info)
		if got := s.object.Name + " " + s.level.object.Name; got != x.want {
			t.Errorf("%s %s %s: %s, want %s", x.name, x.info.Verb, x.info.Resource+x.info.Path, got, x.want)
		}
	}
	if l := c.levels["workload-low"]; l.nominal != 245 || l.kept != 24 { // of 600 seats, 100 of 245 shares; ninety percent lendable
		t.Errorf("workload-low has %d seats, %d for itself", l.nominal, l.kept)
	}
}

// A full level lets each of its users wait in a queue of their own and serves them in turn; nobody waits behind another's flood.
func TestFairness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(1, []*flowcontrolv1.FlowSchema{byUser("a", "flood", "mouse")}, []*flowcontrolv1.PriorityLevelConfiguration{limited("a", 1, nil)})
		first, err := enter(c, "flood", 1)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		tickets := make(chan *Ticket, 10)
		wait := func(who string) {
			go func() {
				ticket, err := c.Enter(t.Context(), named(who), path, one)
				if err != nil {
					t.Errorf("%s: %v", who, err)
					return
				}
				mu.Lock()
				order = append(order, who)
				mu.Unlock()
				tickets <- ticket
			}()
			synctest.Wait()
		}
		for range 3 {
			wait("flood")
		}
		if _, err := enter(c, "flood", 1); !errors.Is(err, ErrTooMany) {
			t.Error("a flow has more waiting than its queue holds")
		}
		wait("mouse")
		wait("mouse")
		first.Leave()
		for range 5 {
			synctest.Wait()
			(<-tickets).Leave()
		}
		synctest.Wait()
		if got := strings.Join(order, " "); got != "flood mouse flood mouse flood" {
			t.Errorf("served in the order %s", got)
		}
		if c.inUse != 0 || c.levels["a"].waiting != 0 || len(c.levels["a"].flows) != 0 {
			t.Errorf("something stays: %+v", c.levels["a"])
		}
	})
}

// Who waits too long, or goes away, gives their place to others; the ticket still says how they were sorted.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(1, []*flowcontrolv1.FlowSchema{byUser("a", "a", "b")}, []*flowcontrolv1.PriorityLevelConfiguration{limited("a", 1, nil)})
		busy, err := enter(c, "a", 1)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		ticket, err := c.Enter(ctx, named("b"), path, one)
		if !errors.Is(err, ErrTooMany) || time.Since(began) != 15*time.Second || ticket.LevelUID != "level-a" || ticket.SchemaUID != "schema-a" {
			t.Errorf("%+v %v after %v", ticket, err, time.Since(began))
		}
		busy.Leave()
		busy.Leave() // counts once
		if _, err := enter(c, "b", 1); err != nil || c.inUse != 1 {
			t.Errorf("%v, %d in use", err, c.inUse)
		}
		text := exposed(t, c)
		for _, want := range []string{`rejected_requests_total flow_schema=to-a priority_level=a reason=time-out 1`, `dispatched_requests_total flow_schema=to-a priority_level=a 2`, `nominal_limit_seats priority_level=a 1`,
			`current_inqueue_requests flow_schema=to-a priority_level=a 0`, `request_wait_duration_seconds execute=false flow_schema=to-a priority_level=a 1`} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	})
}

// exposed are the metrics as text.
func exposed(t *testing.T, c *Controller) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			out.WriteString(strings.TrimPrefix(f.GetName(), "apiserver_flowcontrol_"))
			for _, l := range m.Label {
				fmt.Fprintf(&out, " %s=%s", l.GetName(), l.GetValue())
			}
			switch f.GetType() {
			case dto.MetricType_HISTOGRAM:
				fmt.Fprintf(&out, " %d\n", m.GetHistogram().GetSampleCount())
			case dto.MetricType_COUNTER:
				fmt.Fprintf(&out, " %v\n", m.GetCounter().GetValue())
			default:
				fmt.Fprintf(&out, " %v\n", m.GetGauge().GetValue())
			}
		}
	}
	return out.String()
}

// Levels keep to their seats, borrow what others lend and give it back; what a level does not lend is always free for it.
func TestLevelsShareSeats(t *testing.T) {
	half := int32(50)
	c := New(20, []*flowcontrolv1.FlowSchema{byUser("a", "a"), byUser("b", "b"), byUser("c", "c")}, []*flowcontrolv1.PriorityLevelConfiguration{
		limited("a", 1, func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LendablePercent, l.BorrowingLimitPercent = &half, nil
			l.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
		}),
		limited("b", 1, func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) { l.LendablePercent = &half }), // borrows nothing
		limited("catch-all", 0, nil),
	})
	fill := func(who string) (tickets []*Ticket) {
		for {
			ticket, err := enter(c, who, 1)
			if err != nil {
				return tickets
			}
			tickets = append(tickets, ticket)
		}
	}
	b := fill("b")
	if len(b) != 10 {
		t.Errorf("b got %d of its 10", len(b))
	}
	for _, ticket := range b {
		ticket.Leave()
	}
	a := fill("a")
	if len(a) != 15 { // its own, and the half of b's that b lends
		t.Errorf("a got %d", len(a))
	}
	b = fill("b")
	if len(b) != 5 { // what it keeps
		t.Errorf("b got %d while a has its other half", len(b))
	}
	for _, ticket := range a[:5] {
		ticket.Leave()
	}
	if b = append(b, fill("b")...); len(b) != 10 {
		t.Errorf("b got %d after a has given back", len(b))
	}
	for _, ticket := range append(a[5:], b...) {
		ticket.Leave()
	}
	if wide, err := enter(c, "b", 1000); err != nil || c.inUse != 10 { // who asks for more than there is gets what there is
		t.Errorf("%v, %d in use", err, c.inUse)
	} else {
		wide.Leave()
	}
	if s := c.sort(named("c"), path); s.level.object.Name != "catch-all" {
		t.Errorf("a schema whose level is not there matches: %s", s.level.object.Name)
	}
	if c.inUse != 0 {
		t.Errorf("%d seats are lost", c.inUse)
	}
}

// Whatever comes in whatever order, no seat is given twice or lost, nobody waits while there is room, and everybody is answered.
func TestRandomLoad(t *testing.T) {
	for _, changing := range []bool{false, true} {
		t.Run(fmt.Sprintf("changing=%v", changing), func(t *testing.T) { randomLoad(t, changing) })
	}
}

func randomLoad(t *testing.T, changing bool) {
	levels := func() []*flowcontrolv1.PriorityLevelConfiguration {
		lend := int32(rand.IntN(101))
		return []*flowcontrolv1.PriorityLevelConfiguration{limited("a", int32(rand.IntN(5)), func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
			l.LendablePercent, l.BorrowingLimitPercent = &lend, nil
		}),
			limited("b", int32(1+rand.IntN(5)), nil)}
	}
	schemas := []*flowcontrolv1.FlowSchema{byUser("a", "a1", "a2"), byUser("b", "b1", "b2", "b3")}
	c := New(7, schemas, levels())
	check := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		sum, waiting := 0, 0
		for _, l := range c.order {
			sum += l.inUse
			queued := 0
			for _, q := range l.flows {
				queued += len(q.waiting)
				if len(q.waiting) == 0 {
					t.Error("an empty queue stays")
				}
			}
			if queued != l.waiting {
				t.Errorf("%s: %d wait, %d counted", l.object.Name, queued, l.waiting)
			}
			waiting += l.waiting
		}
		most := c.total + len(c.order)*4 // shares are rounded up, and one request of each level may be wider than its share
		if changing {
			most += c.total // what was let in under another configuration stays in
		}
		if sum > c.inUse || c.inUse > most {
			t.Errorf("%d seats of %d in use, %d by levels", c.inUse, c.total, sum)
		}
		if waiting > 0 && c.inUse == 0 {
			t.Error("somebody waits although nobody is served")
		}
	}
	users := []string{"a1", "a2", "b1", "b2", "b3", "other"}
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
				ticket, err := c.Enter(ctx, named(users[rand.IntN(len(users))]), path, func() int { return 1 + rand.IntN(4) })
				if changing && rand.IntN(50) == 0 {
					c.Configure(schemas, levels())
				}
				if err == nil {
					if rand.IntN(4) == 0 {
						time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
					}
					check()
					ticket.Leave()
				}
				cancel()
			}
		})
	}
	group.Wait()
	check()
	if c.inUse != 0 {
		t.Errorf("%d seats are lost", c.inUse)
	}
}

func BenchmarkEnter(b *testing.B) {
	mandatoryLevels, levels := kinds.SystemPriorityLevels()
	mandatorySchemas, schemas := kinds.SystemFlowSchemas()
	c := New(600, append(mandatorySchemas, schemas...), append(mandatoryLevels, levels...))
	who := named("jane")
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "get", APIVersion: "v1", Resource: "pods", Namespace: "ns", Name: "p"}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ticket, err := c.Enter(context.Background(), who, info, one)
			if err != nil {
				b.Fatal(err)
			}
			ticket.Leave()
		}
	})
}
