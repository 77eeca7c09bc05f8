package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/apiserver/aggregate"
)

const flunders = "/apis/wardle.example/v1/namespaces/default/flunders"

// TestAggregation registers another server and uses it as its clients do.
func TestAggregation(t *testing.T) {
	w := startAggregating(t, nil)
	x := newExtension(t, w.keys, "wardle.example", "wardle")
	w.served(t, flunders, 404, "404 page not found")
	w.external(t, "wardle")
	w.register(t, apiService("wardle.example", "wardle", x.port(), x.ca))
	if m := w.condition(t, "v1.wardle.example", apiregistrationv1.ConditionTrue, "Passed"); m != "all checks passed" {
		t.Errorf("it is available because %q", m)
	}
	w.served(t, flunders, 200, "FlunderList")

	t.Run("identity", func(t *testing.T) {
		code, h, _ := w.raw(t, "GET", flunders+"?labelSelector=a%3Db", admin, map[string]string{"X-Remote-User": "eve", "X-Remote-Group": "system:masters", "X-Remote-Extra-Scope": "all",
			"Impersonate-User": "jane", "Impersonate-Uid": "u-1", "Impersonate-Group": "shoppers", "Impersonate-Extra-Dept": "fish", "Audit-Id": "audit-1"}, "")
		r := x.last()
		if code != 403 { // jane may not; nothing may arrive
			t.Errorf("one without permission: %d", code)
		}
		code, h, _ = w.raw(t, "GET", flunders+"?labelSelector=a%3Db", admin, map[string]string{"X-Remote-User": "eve", "X-Remote-Group": "system:nobody", "X-Remote-Extra-Scope": "all",
			"Impersonate-User": "jane", "Impersonate-Uid": "u-1", "Impersonate-Group": "system:masters", "Impersonate-Extra-Dept": "fish", "Audit-Id": "audit-1"}, "")
		if r = x.last(); code != 200 {
			t.Fatalf("one with permission: %d", code)
		}
		for header, want := range map[string][]string{"X-Remote-User": {"jane"}, "X-Remote-Uid": {"u-1"}, "X-Remote-Group": {"system:masters", "system:authenticated"},
			"X-Remote-Extra-Dept": {"fish"}, "X-Remote-Extra-Scope": nil, "Authorization": nil, "Impersonate-User": nil, "Impersonate-Extra-Dept": nil, "Audit-Id": {"audit-1"}} {
			if got := r.Header.Values(header); !slices.Equal(got, want) {
				t.Errorf("the other server sees %s %q, not %q", header, got, want)
			}
		}
		if r.URL.RawQuery != "labelSelector=a%3Db" {
			t.Errorf("the other server sees the query %q", r.URL.RawQuery)
		}
		w.raw(t, "GET", flunders+"/a%2Fb", admin, nil, "")
		if uri := x.last().RequestURI; uri != flunders+"/a/b" { // as it was authorized
			t.Errorf("the other server sees the path %s", uri)
		}
		if len(h.Values("Audit-Id")) != 1 || len(h.Values("Cache-Control")) != 1 {
			t.Errorf("the client sees %v", h)
		}
		if code, _, _ := w.raw(t, "GET", flunders, nobody, nil, ""); code != 403 {
			t.Errorf("nobody: %d", code)
		}
	})

	t.Run("write", func(t *testing.T) {
		code, _, body := w.raw(t, "POST", flunders, admin, map[string]string{"Content-Type": "application/json"}, `{"kind":"Flunder"}`)
		if code != 201 || body != `{"kind":"Flunder"}` {
			t.Errorf("%d %q", code, body)
		}
	})

	t.Run("watch", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+w.address+flunders+"?watch=1", nil)
		req.Header.Set("Authorization", "Bearer "+admin)
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		defer tr.CloseIdleConnections()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for _, name := range []string{"a", "b"} { // each arrives before the next is sent
			x.push <- name
			if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"name":"`+name+`"`) {
				t.Fatalf("%q %v", line, err)
			}
		}
	})

	t.Run("discovery", func(t *testing.T) {
		d := w.client(t, false).Discovery()
		eventually(t, "flunders are discovered", func() bool {
			_, lists, err := d.ServerGroupsAndResources()
			return err == nil && slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
				return l.GroupVersion == "wardle.example/v1" && l.APIResources[0].Name == "flunders" && l.APIResources[0].ShortNames[0] == "fl"
			})
		})
		_, _, body := w.raw(t, "GET", "/apis", admin, map[string]string{"Accept": "application/json"}, "")
		groups := metav1.APIGroupList{}
		if err := json.Unmarshal([]byte(body), &groups); err != nil {
			t.Fatal(err)
		}
		if first, last := groups.Groups[0].Name, groups.Groups[len(groups.Groups)-1]; first != "apiregistration.k8s.io" || last.Name != "wardle.example" || last.PreferredVersion.GroupVersion != "wardle.example/v1" {
			t.Errorf("listed first: %s, last: %+v", first, last)
		}
		if code, _, body := w.raw(t, "GET", "/apis/wardle.example", admin, nil, ""); code != 200 || !strings.Contains(body, `"wardle.example/v1"`) {
			t.Errorf("the group: %d %s", code, body)
		}
		w.served(t, "/apis/wardle.example/v1", 200, `"flunders/status"`)
	})

	t.Run("openapi", func(t *testing.T) {
		_, _, body := w.raw(t, "GET", "/openapi/v3", admin, nil, "")
		index := struct {
			Paths map[string]struct{ ServerRelativeURL string }
		}{}
		if err := json.Unmarshal([]byte(body), &index); err != nil {
			t.Fatal(err)
		}
		if u := index.Paths["apis/wardle.example/v1"].ServerRelativeURL; u != "/openapi/v3/apis/wardle.example/v1?hash=ABC" || index.Paths["apis/other/v1"].ServerRelativeURL != "" || index.Paths["api/v1"].ServerRelativeURL == "" {
			t.Errorf("index: %v", index)
		}
		if code, h, body := w.raw(t, "GET", "/openapi/v3/apis/wardle.example/v1?hash=ABC", admin, nil, ""); code != 200 || !strings.Contains(body, "flunders") || h.Get("ETag") != `"ABC"` {
			t.Errorf("document: %d %v %s", code, h, body)
		}
		_, h, body := w.raw(t, "GET", "/openapi/v2", admin, nil, "")
		doc := struct{ Paths, Definitions map[string]json.RawMessage }{}
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Paths["/apis/wardle.example/v1/flunders"] == nil || doc.Paths["/apis/other/v1/things"] != nil || doc.Paths["/api/v1/pods"] == nil || doc.Definitions["example.Flunder"] == nil {
			t.Errorf("the joined document has %d paths and %d definitions, not the right ones", len(doc.Paths), len(doc.Definitions))
		}
		if code, _, _ := w.raw(t, "GET", "/openapi/v2", admin, map[string]string{"If-None-Match": h.Get("ETag")}, ""); code != 304 {
			t.Errorf("again: %d", code)
		}
		if n, m := x.fetched("/openapi/v2"), x.fetched("/openapi/v3"); n != 1 || m != 1 {
			t.Errorf("the other server was asked for its documents %d and %d times", n, m)
		}
	})

	t.Run("redirects are not passed on", func(t *testing.T) {
		if code, h, _ := w.raw(t, "GET", flunders+"/redirect", admin, nil, ""); code != 502 || h.Get("Location") != "" {
			t.Errorf("%d %v", code, h)
		}
	})

	t.Run("a deadline", func(t *testing.T) {
		if code, _, body := w.raw(t, "GET", flunders+"/slow?timeout=200ms", admin, nil, ""); code != 504 || !strings.Contains(body, `"reason":"Timeout"`) {
			t.Errorf("%d %s", code, body)
		}
	})

	t.Run("in process", func(t *testing.T) {
		set := w.InProcess(root)
		list, err := set.Kubernetes.Discovery().ServerPreferredNamespacedResources()
		if err != nil || !slices.ContainsFunc(list, func(l *metav1.APIResourceList) bool { return l.GroupVersion == "wardle.example/v1" }) {
			t.Errorf("%v", err)
		}
	})

	w.deregister(t, "v1.wardle.example")
	w.served(t, flunders, 404, "404 page not found")
	w.served(t, "/apis/wardle.example", 404, "")
	eventually(t, "no watch of services is left", func() bool { return !strings.Contains(stacks(), "aggregate.startNetwork") })
}

func stacks() string {
	b := make([]byte, 4<<20)
	return string(b[:runtime.Stack(b, true)])
}

// TestAggregationCostsNothingUnused: nothing runs for other servers while there is none.
func TestAggregationCostsNothingUnused(t *testing.T) {
	w := startAggregating(t, nil)
	w.condition(t, "v1.apps", apiregistrationv1.ConditionTrue, "Local")
	if s := stacks(); strings.Contains(s, "aggregate.startNetwork") || strings.Contains(s, "aggregate.(*peer)") {
		t.Error("something runs for other servers")
	}
}

// TestUpgradesArePassedOn speaks another protocol through the server.
func TestUpgradesArePassedOn(t *testing.T) {
	w := startAggregating(t, nil)
	x := newExtension(t, w.keys, "wardle.example", "wardle")
	w.external(t, "wardle")
	w.register(t, apiService("wardle.example", "wardle", x.port(), x.ca))
	w.served(t, flunders, 200, "")
	for _, protocol := range []string{"websocket", "SPDY/3.1"} {
		conn, err := tls.Dial("tcp", w.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET %s/a/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Remote-User: eve\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", flunders, admin, protocol)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%s: %v %v", protocol, resp, err)
		}
		fmt.Fprint(conn, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello" {
			t.Errorf("%s: %q %v", protocol, got, err)
		}
		if h := x.last().Header; h.Get("X-Remote-User") != "root" || h.Get("Authorization") != "" {
			t.Errorf("%s: the other server sees %v", protocol, h)
		}
	}
}

// TestUnavailableServers: what is wrong is told in the condition, requests are refused, and what is mended is served.
func TestUnavailableServers(t *testing.T) {
	var mu sync.Mutex
	dialed, to := map[string]bool{}, ""
	w := startAggregating(t, func(c *Config) {
		c.ProxyDial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			dialed[address] = true
			if host, _, _ := net.SplitHostPort(address); host == "192.0.2.7" {
				address = to
			}
			mu.Unlock()
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	x := newExtension(t, w.keys, "wardle.example", "wardle")
	x.legacy = true
	mu.Lock()
	to = x.Listener.Addr().String()
	mu.Unlock()
	core := w.client(t, false).CoreV1()
	const name = "v1.wardle.example"
	w.register(t, apiService("wardle.example", "wardle", 443, x.ca))
	if m := w.condition(t, name, apiregistrationv1.ConditionFalse, "ServiceNotFound"); m != `service/wardle in "default" is not present` {
		t.Error(m)
	}
	w.served(t, flunders, 503, "service unavailable")
	w.served(t, "/apis/wardle.example/v1", 503, "service unavailable")
	if _, _, body := w.raw(t, "GET", "/apis", admin, map[string]string{"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, ""); !strings.Contains(body, `"metadata":{"name":"wardle.example"},"versions":[{"version":"v1","freshness":"Stale"}]`) {
		t.Errorf("it is not stale in %s", body)
	}

	svc, err := core.Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "wardle"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.condition(t, name, apiregistrationv1.ConditionFalse, "ServicePortError")
	svc.Spec.Ports = []corev1.ServicePort{{Name: "api", Port: 443}}
	if _, err := core.Services("default").Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.condition(t, name, apiregistrationv1.ConditionFalse, "EndpointsNotFound")
	slices := w.client(t, false).DiscoveryV1().EndpointSlices("default")
	yes, no, port, portName, tcp := true, false, int32(6443), "api", corev1.ProtocolTCP
	slice, err := slices.Create(t.Context(), &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "wardle-1", Labels: map[string]string{discoveryv1.LabelServiceName: "wardle"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &tcp}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m := w.condition(t, name, apiregistrationv1.ConditionFalse, "MissingEndpoints"); m != `endpointslices for service/wardle in "default" have no addresses with port name "api"` {
		t.Error(m)
	}
	x.failing.Store(500)
	slice.Endpoints[0].Conditions.Ready = &yes
	if _, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if m := w.condition(t, name, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck"); m != "failing or missing response from https://192.0.2.7:6443/apis/wardle.example/v1: bad status from https://192.0.2.7:6443/apis/wardle.example/v1: 500" {
		t.Error(m)
	}
	x.failing.Store(0) // nobody tells: it is found by asking again
	w.condition(t, name, apiregistrationv1.ConditionTrue, "Passed")
	w.served(t, flunders, 200, "FlunderList")
	mu.Lock()
	if !dialed["192.0.2.7:6443"] {
		t.Errorf("dialed %v", dialed)
	}
	mu.Unlock()
	eventually(t, "what a server says in the old form is shown in the new", func() bool {
		_, _, body := w.raw(t, "GET", "/apis", admin, map[string]string{"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}, "")
		return strings.Contains(body, `"resource":"flunders","responseKind":{"group":"wardle.example","version":"v1","kind":"Flunder"},"scope":"Namespaced"`) && strings.Contains(body, `"subresource":"status"`)
	})

	// The wrong authority: nothing is sent there.
	w.change(t, name, func(s *apiregistrationv1.APIService) { s.Spec.CABundle = w.keys.Pairs().CA.CertPEM })
	if m := w.condition(t, name, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck"); !strings.Contains(m, "certificate signed by unknown authority") {
		t.Error(m)
	}
	before := x.asked.Load()
	w.served(t, flunders, 503, "service unavailable")
	if n := x.asked.Load(); n != before {
		t.Errorf("a server whose certificate is wrong got %d requests", n-before)
	}
	w.change(t, name, func(s *apiregistrationv1.APIService) { s.Spec.CABundle, s.Spec.InsecureSkipTLSVerify = nil, true })
	w.condition(t, name, apiregistrationv1.ConditionTrue, "Passed")
	w.change(t, name, func(s *apiregistrationv1.APIService) {
		s.Spec.CABundle, s.Spec.InsecureSkipTLSVerify = []byte("no certificate"), false
	})
	if m := w.condition(t, name, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck"); !strings.Contains(m, "unable to load root certificates") {
		t.Error(m)
	}
	w.change(t, name, func(s *apiregistrationv1.APIService) { s.Spec.CABundle = x.ca })
	w.condition(t, name, apiregistrationv1.ConditionTrue, "Passed")

	// It goes away: the first request fails, and that tells.
	x.Server.CloseClientConnections()
	x.Listener.Close()
	if code, _, body := w.raw(t, "GET", flunders, admin, nil, ""); code != 503 || !strings.Contains(body, "connection refused") {
		t.Errorf("a server that is gone: %d %s", code, body)
	}
	w.condition(t, name, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck")
	w.raw(t, "GET", "/apis/wardle.example/v1/invented", admin, nil, "")
	_, _, text := w.raw(t, "GET", "/metrics", admin, nil, "")
	if strings.Contains(text, "invented") {
		t.Error("a name that nobody has confirmed became a label")
	}
	for _, line := range []string{`apiserver_resource_objects{group="",resource="services"} `, `apiserver_resource_objects{group="apiregistration.k8s.io",resource="apiservices"} `, `apiserver_storage_objects{resource="endpointslices.discovery.k8s.io"} 1`,
		`aggregator_unavailable_apiservice{name="v1.wardle.example"} 1`, `aggregator_unavailable_apiservice{name="v1.apps"} 0`, `aggregator_unavailable_apiservice_total{name="v1.wardle.example",reason="FailedDiscoveryCheck"}`} {
		if !strings.Contains(text, line) {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// TestHangingServerHoldsNobodyUp: others are served and found beside one that never answers.
func TestHangingServerHoldsNobodyUp(t *testing.T) {
	w := startAggregating(t, nil)
	slow, good := newExtension(t, w.keys, "slow.example", "slow"), newExtension(t, w.keys, "good.example", "good")
	slow.hanging.Store(true)
	w.external(t, "slow")
	w.external(t, "good")
	w.register(t, apiService("slow.example", "slow", slow.port(), slow.ca))
	eventually(t, "the server is asked", func() bool { return slow.asked.Load() > 0 })
	w.register(t, apiService("good.example", "good", good.port(), good.ca))
	w.condition(t, "v1.good.example", apiregistrationv1.ConditionTrue, "Passed")
	w.served(t, "/apis/good.example/v1/flunders", 200, "")
	w.served(t, "/apis/slow.example/v1/flunders", 503, "service unavailable")
	if m := w.condition(t, "v1.slow.example", apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck"); !strings.Contains(m, "failing or missing response from https://localhost:") {
		t.Error(m)
	}
}

// TestManyRegistrations come and go at once.
func TestManyRegistrations(t *testing.T) {
	w := startAggregating(t, nil)
	x := newExtension(t, w.keys, "g0.example", "many")
	w.external(t, "many")
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			s := apiService(fmt.Sprintf("g%d.example", i), "many", x.port(), x.ca)
			if err := w.rest.Post().Resource("apiservices").Body(s).Do(t.Context()).Error(); err != nil {
				t.Error(err)
			}
			if i%2 == 1 {
				if err := w.rest.Delete().Resource("apiservices").Name(s.Name).Do(t.Context()).Error(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	eventually(t, "those that stay are listed, and no others", func() bool {
		_, _, body := w.raw(t, "GET", "/apis", admin, map[string]string{"Accept": "application/json"}, "")
		return strings.Count(body, `.example"`) == 12
	})
	w.condition(t, "v1.g0.example", apiregistrationv1.ConditionTrue, "Passed")
	w.served(t, "/apis/g0.example/v1/flunders", 200, "FlunderList")
}

// TestLocalAPIServices: one for each group and version of our own, kept as upstream keeps them.
func TestLocalAPIServices(t *testing.T) {
	w := startAggregating(t, nil)
	w.condition(t, "v1.", apiregistrationv1.ConditionTrue, "Local")
	s := w.get(t, "v1.apps")
	for end := time.Now().Add(10 * time.Second); s == nil && time.Now().Before(end); s = w.get(t, "v1.apps") {
	}
	if s.Labels[aggregate.Managed] != "onstart" || s.Spec.GroupPriorityMinimum != 17800 || s.Spec.VersionPriority != 15 || s.Spec.Service != nil {
		t.Errorf("%+v", s)
	}
	if w.get(t, "v1.apiregistration.k8s.io") != nil {
		t.Error("the group of APIServices is registered")
	}
	if _, _, body := w.raw(t, "GET", "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps", admin, map[string]string{"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}, ""); !strings.Contains(body, `"cells":["v1.apps","Local","True",`) {
		t.Errorf("table: %s", body)
	}

	// A definition's come and go with it, and come back when somebody takes them away.
	d, err := dynamic.NewForConfig(w.config(admin))
	if err != nil {
		t.Fatal(err)
	}
	define(t, d, widgets)
	w.condition(t, "v1beta1.shop.example", apiregistrationv1.ConditionTrue, "Local")
	w.condition(t, "v1.shop.example", apiregistrationv1.ConditionTrue, "Local")
	uid := w.get(t, "v1.shop.example").UID
	w.deregister(t, "v1.shop.example")
	eventually(t, "the APIService is back", func() bool { s := w.get(t, "v1.shop.example"); return s != nil && s.UID != uid })
	w.change(t, "v1.shop.example", func(s *apiregistrationv1.APIService) { s.Spec.VersionPriority = 3 })
	eventually(t, "the APIService is put right", func() bool { return w.get(t, "v1.shop.example").Spec.VersionPriority == 100 })

	// Another server for the definition's group and version: it answers, until it is gone.
	x := newExtension(t, w.keys, "shop.example", "shop")
	w.external(t, "shop")
	w.change(t, "v1.shop.example", func(s *apiregistrationv1.APIService) {
		s.Labels = nil
		s.Spec = apiService("shop.example", "shop", x.port(), x.ca).Spec
	})
	w.condition(t, "v1.shop.example", apiregistrationv1.ConditionTrue, "Passed")
	w.served(t, "/apis/shop.example/v1/widgets", 200, "FlunderList")
	w.served(t, "/apis/shop.example/v1beta1/widgets", 200, "WidgetList")
	w.deregister(t, "v1.shop.example")
	w.served(t, "/apis/shop.example/v1/widgets", 200, "WidgetList")
	w.condition(t, "v1.shop.example", apiregistrationv1.ConditionTrue, "Local")

	// And for a built-in one.
	y := newExtension(t, w.keys, "apps", "apps")
	w.external(t, "apps")
	w.change(t, "v1.apps", func(s *apiregistrationv1.APIService) { s.Spec = apiService("apps", "apps", y.port(), y.ca).Spec })
	w.served(t, "/apis/apps/v1/deployments", 200, "FlunderList")
	w.deregister(t, "v1.apps")
	w.served(t, "/apis/apps/v1/deployments", 200, "DeploymentList")

	// Nobody can take the group of APIServices over.
	z := newExtension(t, w.keys, "apiregistration.k8s.io", "apps")
	w.register(t, apiService("apiregistration.k8s.io", "apps", z.port(), z.ca))
	w.condition(t, "v1.apiregistration.k8s.io", apiregistrationv1.ConditionTrue, "Passed")
	w.served(t, "/apis/apiregistration.k8s.io/v1/apiservices", 200, "APIServiceList")

	if err := d.Resource(crds).Delete(t.Context(), "widgets.shop.example", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the definition's APIServices are gone", func() bool { return w.get(t, "v1.shop.example") == nil && w.get(t, "v1beta1.shop.example") == nil })
}

// TestLegacyGroupElsewhere: the core group can be another server's, too, and be taken back.
func TestLegacyGroupElsewhere(t *testing.T) {
	w := startAggregating(t, nil)
	x := newExtension(t, w.keys, "", "core")
	x.legacy = true
	w.external(t, "core")
	w.condition(t, "v1.", apiregistrationv1.ConditionTrue, "Local")
	w.change(t, "v1.", func(s *apiregistrationv1.APIService) {
		s.Spec.Service, s.Spec.CABundle = &apiregistrationv1.ServiceReference{Namespace: "default", Name: "core", Port: new(x.port())}, x.ca
	})
	w.served(t, "/api/v1/pods", 200, "FlunderList")
	w.change(t, "v1.", func(s *apiregistrationv1.APIService) { s.Spec.Service, s.Spec.CABundle = nil, nil })
	w.served(t, "/api/v1/pods", 200, "PodList")
}

// TestTrustIsPublished for other servers, whoever takes it away.
func TestTrustIsPublished(t *testing.T) {
	var published *aggregate.Published
	w := startAggregating(t, func(c *Config) {
		c.Advertise = netip.MustParseAddrPort("192.0.2.1:6443")
		published = c.Trust
	})
	maps := w.client(t, false).CoreV1().ConfigMaps("kube-system")
	get := func() *corev1.ConfigMap {
		m, err := maps.Get(t.Context(), aggregate.TrustName, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return m
	}
	eventually(t, "it is there", func() bool { return get() != nil })
	m := get()
	pairs := w.keys.Pairs()
	for key, want := range map[string]string{"client-ca-file": string(pairs.CA.CertPEM), "requestheader-client-ca-file": string(pairs.FrontProxyCA.CertPEM), "requestheader-allowed-names": `["front-proxy-client"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`, "requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`} {
		if m.Data[key] != want {
			t.Errorf("%s is %q, not %q", key, m.Data[key], want)
		}
	}
	if err := maps.Delete(t.Context(), m.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is back", func() bool { n := get(); return n != nil && n.UID != m.UID })
	m = get()
	m.Data["requestheader-allowed-names"], m.Data["client-ca-file"] = `["another-proxy"]`, ""
	if _, err := maps.Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is completed", func() bool {
		d := get().Data
		return d["requestheader-allowed-names"] == `["another-proxy","front-proxy-client"]` && d["client-ca-file"] == string(pairs.CA.CertPEM)
	})
	before, _ := published.Trust()
	next := *before
	next.ClientCA, next.ProxyCA = slices.Concat(before.ClientCA, w.ca), w.ca
	published.Set(&next)
	eventually(t, "it says what is trusted besides", func() bool {
		d := get().Data
		return d["client-ca-file"] == string(pairs.CA.CertPEM)+string(w.ca) && d["requestheader-client-ca-file"] == string(pairs.FrontProxyCA.CertPEM)+string(w.ca)
	})
}

// TestPrioritiesAreAdministrators: who changes the priorities of an APIService of this server's own changes the order in discovery, and back.
func TestPrioritiesAreAdministrators(t *testing.T) {
	w := startAggregating(t, nil)
	groups := func() (names []string) {
		list, err := w.client(t, false).Discovery().ServerGroups()
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range list.Groups {
			names = append(names, g.Name)
		}
		return names
	}
	eventually(t, "it is registered", func() bool { return w.get(t, "v1.batch") != nil })
	before := groups()
	index := func(list []string, name string) int { return slices.Index(list, name) }
	if index(before, "batch") < index(before, "apps") {
		t.Fatal(before)
	}
	was := w.get(t, "v1.batch").Spec.GroupPriorityMinimum
	w.change(t, "v1.batch", func(s *apiregistrationv1.APIService) { s.Spec.GroupPriorityMinimum = 17900 })
	eventually(t, "it stands where the administrator wants it", func() bool { now := groups(); return index(now, "batch") < index(now, "apps") })
	w.change(t, "v1.batch", func(s *apiregistrationv1.APIService) { s.Spec.GroupPriorityMinimum = was })
	eventually(t, "all is as before", func() bool { return slices.Equal(groups(), before) })
}
