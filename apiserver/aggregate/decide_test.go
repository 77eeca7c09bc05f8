package aggregate

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/pki"
)

func local(label string, priority int32) *apiregistrationv1.APIService {
	s := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.g"}, Spec: apiregistrationv1.APIServiceSpec{Group: "g", Version: "v1", GroupPriorityMinimum: priority}}
	if label != "" {
		s.Labels = map[string]string{Managed: label}
	}
	return s
}

// TestDecide goes through upstream's table of what is wanted and what is there.
func TestDecide(t *testing.T) {
	atStart, always := local(managedAtStart, 1), local(managedAlways, 1)
	for name, c := range map[string]struct {
		want, have   *apiregistrationv1.APIService
		put, atStart bool
		is           deed
	}{
		"nothing":              {nil, nil, false, false, leave},
		"missing, built in":    {atStart, nil, false, false, create},
		"taken away, built in": {atStart, nil, true, false, leave},
		"missing, custom":      {always, nil, false, false, create},
		"taken away, custom":   {always, nil, true, false, create},
		"somebody's own":       {always, local("", 2), false, true, leave},
		"somebody's own, label of another meaning": {always, local("no", 2), false, true, leave},
		"somebody's own and nobody wants it":       {nil, local("", 2), false, true, leave},
		"as it should be":                          {always, local(managedAlways, 1), true, true, leave},
		"changed, custom":                          {always, local(managedAlways, 2), true, false, update},
		"changed while away, built in":             {atStart, local(managedAtStart, 2), false, true, update},
		"changed since, built in":                  {atStart, local(managedAtStart, 2), true, true, leave},
		"made since, with our label":               {always, local(managedAtStart, 2), false, false, leave},
		"not served any more, built in":            {nil, local(managedAtStart, 1), false, true, remove},
		"made since, and nobody wants it":          {nil, local(managedAtStart, 1), false, false, leave},
		"definition gone":                          {nil, local(managedAlways, 1), true, false, remove},
	} {
		if is := decide(c.want, c.have, c.put, c.atStart); is != c.is {
			t.Errorf("%s: %v, not %v", name, is, c.is)
		}
	}
}

// TestLocalServices: every built-in group and version has its priority, so that none is left out.
func TestLocalServices(t *testing.T) {
	services := localServices(kinds.All())
	for _, k := range kinds.All() {
		gv := k.GroupVersionKind.GroupVersion()
		s := services[gv.Version+"."+gv.Group]
		if gv.Group == apiregistrationv1.GroupName {
			if s != nil {
				t.Error("the group of APIServices has one")
			}
			continue
		}
		if s == nil {
			t.Errorf("%s has none: give it its priority", gv)
			continue
		}
		if errs := kinds.APIServices().Validate(t.Context(), s); len(errs) > 0 {
			t.Errorf("%s: %v", gv, errs)
		}
	}
}

func TestJudge(t *testing.T) {
	ref := apiregistrationv1.ServiceReference{Namespace: "n", Name: "s", Port: new(int32(443))}
	service := func(kind corev1.ServiceType, port int32) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Name: "other", Port: 1}, {Name: "api", Port: port}}}}
	}
	slice := func(ready *bool, port string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}},
			Ports: []discoveryv1.EndpointPort{{Name: &port, Port: new(int32(6443))}}}
	}
	for name, c := range map[string]struct {
		found  found
		status apiregistrationv1.ConditionStatus
		reason string
	}{
		"no service":            {found{err: apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, "s")}, "False", "ServiceNotFound"},
		"no knowing":            {found{err: errors.New("broken")}, "Unknown", "ServiceAccessError"},
		"another port":          {found{service: service("ClusterIP", 80)}, "False", "ServicePortError"},
		"no slices":             {found{service: service("ClusterIP", 443)}, "False", "EndpointsNotFound"},
		"nobody ready":          {found{service: service("ClusterIP", 443), slices: []*discoveryv1.EndpointSlice{slice(new(false), "api")}}, "False", "MissingEndpoints"},
		"ready on another port": {found{service: service("ClusterIP", 443), slices: []*discoveryv1.EndpointSlice{slice(new(true), "other")}}, "False", "MissingEndpoints"},
		"ready":                 {found{service: service("ClusterIP", 443), slices: []*discoveryv1.EndpointSlice{slice(new(false), "api"), slice(nil, "api")}}, "True", "Passed"},
		"elsewhere":             {found{service: service("ExternalName", 80)}, "True", "Passed"},
		"a node's port":         {found{service: service("NodePort", 443)}, "True", "Passed"},
	} {
		got, ask := judge(ref, c.found)
		if got.Status != c.status || got.Reason != c.reason || ask != (c.status == "True") || got.Type != apiregistrationv1.Available || got.Message == "" {
			t.Errorf("%s: %+v, ask %v", name, got, ask)
		}
	}
}

func TestBackOff(t *testing.T) {
	var got []time.Duration
	for i := 1; i < 16; i++ {
		got = append(got, backOff(probeSoon, probeLatest, i))
	}
	if got[0] != probeSoon || got[1] != 2*probeSoon || got[len(got)-1] != probeLatest || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
	if d := backOff(probeSoon, probeLatest, 1<<30); d != probeLatest {
		t.Errorf("after very long: %v", d)
	}
}

// TestTrustOfSeveralServers: what others published stays, expired authorities go, and once merged there is nothing to merge.
func TestTrustOfSeveralServers(t *testing.T) {
	authority := func(lifetime time.Duration) []byte {
		keys, err := pki.Ensure(t.TempDir(), pki.Config{CALifetime: lifetime, LeafLifetime: lifetime / 2})
		if err != nil {
			t.Fatal(err)
		}
		return keys.Pairs().CA.CertPEM
	}
	one, two, old := authority(48*time.Hour), authority(48*time.Hour), authority(time.Hour)
	trust := func(ca []byte, name string) *Trust {
		tr := &Trust{ClientCA: ca, ProxyCA: ca, AllowedNames: []string{name}}
		tr.DefaultHeaders()
		return tr
	}
	now := time.Now().Add(24 * time.Hour)
	data, err := trust(one, "a").merge(map[string]string{"client-ca-file": string(old) + "no PEM", "junk": "x"}, now)
	if err != nil {
		t.Fatal(err)
	}
	if data["client-ca-file"] != string(one) || data["junk"] != "" {
		t.Errorf("%q", data)
	}
	if data, err = trust(two, "b").merge(data, now); err != nil {
		t.Fatal(err)
	}
	if data["requestheader-client-ca-file"] != string(one)+string(two) || data["requestheader-allowed-names"] != `["a","b"]` || data["requestheader-username-headers"] != `["X-Remote-User"]` {
		t.Errorf("%q", data)
	}
	again, err := trust(one, "a").merge(data, now)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(data)
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		t.Errorf("merged again it is %s, not %s", b, a)
	}
	if data, err = (&Trust{ClientCA: one}).merge(nil, now); err != nil || len(data) != 1 {
		t.Errorf("without a proxy: %q %v", data, err)
	}
	if _, err := trust(one, "a").merge(map[string]string{"requestheader-allowed-names": "no list"}, now); err == nil {
		t.Error("what cannot be read is overwritten")
	}
}

func TestFromResourceList(t *testing.T) {
	gv := schema.GroupVersion{Group: "g", Version: "v1"}
	got := fromResourceList(gv, &metav1.APIResourceList{APIResources: []metav1.APIResource{
		{Name: "things/scale", Namespaced: true, Group: "autoscaling", Version: "v1", Kind: "Scale", Verbs: []string{"get"}},
		{Name: "things", SingularName: "thing", Namespaced: true, Kind: "Thing", Verbs: []string{"list"}, ShortNames: []string{"th"}, Categories: []string{"all"}},
		{Name: "nodes", Kind: "NodeThing", Verbs: []string{"get"}}}})
	if len(got.Resources) != 2 || got.Version != "v1" || got.Freshness != "Current" {
		t.Fatalf("%+v", got)
	}
	things, nodes := got.Resources[0], got.Resources[1]
	if things.Scope != "Namespaced" || *things.ResponseKind != (metav1.GroupVersionKind{Group: "g", Version: "v1", Kind: "Thing"}) || things.SingularResource != "thing" || things.ShortNames[0] != "th" || things.Categories[0] != "all" {
		t.Errorf("%+v", things)
	}
	if len(things.Subresources) != 1 || *things.Subresources[0].ResponseKind != (metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}) {
		t.Errorf("%+v", things.Subresources)
	}
	if nodes.Scope != "Cluster" || nodes.ResponseKind.Kind != "NodeThing" {
		t.Errorf("%+v", nodes)
	}
}
