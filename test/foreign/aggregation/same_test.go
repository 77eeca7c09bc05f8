package aggregation

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"wherry.dev/wherry/test/foreign/plane"
)

var errNotYet = errors.New("not all are there")

// TestSameAsUpstream compares what both servers register, list and publish without any other server.
func TestSameAsUpstream(t *testing.T) {
	ours, theirs := &cluster{Plane: plane.StartWherry(t, plane.Port), t: t}, &cluster{Plane: plane.StartUpstream(t, plane.Port+1000), t: t}
	for _, c := range []*cluster{ours, theirs} {
		var err error
		if c.dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
			t.Fatal(err)
		}
	}
	a, b := ours.apiServices(), theirs.apiServices()
	for name, s := range a {
		if b[name] != s {
			t.Errorf("APIService %s is\n%s, upstream's\n%s", name, s, b[name])
		}
	}
	t.Logf("upstream has besides: %v", slices.DeleteFunc(slices.Sorted(maps.Keys(b)), func(n string) bool { return a[n] != "" }))

	x, y := ours.listed(), theirs.listed()
	same(t, "/apis", x, y)
	x, y = ours.aggregated(), theirs.aggregated()
	same(t, "/apis, aggregated", x, y)

	for _, path := range []string{"/apis/apiregistration.k8s.io/v1", "/apis/apiregistration.k8s.io"} {
		_, one := ours.raw(t, path, plainJSON)
		_, two := theirs.raw(t, path, plainJSON)
		hash := regexp.MustCompile(`"storageVersionHash":"[^"]*"`) // opaque
		if one, two = hash.ReplaceAllString(strings.TrimSpace(one), ""), hash.ReplaceAllString(strings.TrimSpace(two), ""); one != two {
			t.Errorf("%s is\n%s, upstream's\n%s", path, one, two)
		}
	}

	one, two := ours.trust(), theirs.trust()
	delete(one, "requestheader-uid-headers") // upstream was not given any
	if !slices.Equal(slices.Sorted(maps.Keys(one)), slices.Sorted(maps.Keys(two))) {
		t.Errorf("published for other servers: %v, upstream's: %v", one, two)
	}
	for _, key := range []string{"requestheader-allowed-names", "requestheader-username-headers", "requestheader-group-headers", "requestheader-extra-headers-prefix"} {
		if one[key] != two[key] {
			t.Errorf("%s is %q, upstream's %q", key, one[key], two[key])
		}
	}
}

// same fails when what both lists have in common has another order.
func same(t *testing.T, what string, ours, theirs []string) {
	t.Helper()
	common := func(of, other []string) []string {
		return slices.DeleteFunc(slices.Clone(of), func(s string) bool { return !slices.Contains(other, s) })
	}
	if x, y := common(ours, theirs), common(theirs, ours); !slices.Equal(x, y) || len(x) < 15 {
		t.Errorf("%s: %v, upstream's: %v", what, x, y)
	}
}

// apiServices is what is registered, without what differs from server to server.
func (c *cluster) apiServices() map[string]string {
	c.t.Helper()
	out := map[string]string{}
	plane.Eventually(c.t, "APIServices to be registered", wait, func() error {
		l, err := c.dynamic.Resource(apiServices).List(c.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, s := range l.Items {
			conditions, _, _ := unstructured.NestedSlice(s.Object, "status", "conditions")
			for _, x := range conditions {
				delete(x.(map[string]any), "lastTransitionTime")
			}
			b, err := json.Marshal(map[string]any{"labels": s.GetLabels(), "annotations": s.GetAnnotations(), "spec": s.Object["spec"], "conditions": conditions})
			if err != nil {
				return err
			}
			out[s.GetName()] = string(b)
		}
		if out["v1."] == "" || out["v1.resource.k8s.io"] == "" {
			return errNotYet
		}
		return nil
	})
	return out
}

func (c *cluster) listed() (names []string) {
	c.t.Helper()
	groups := metav1.APIGroupList{}
	if _, body := c.raw(c.t, "/apis", plainJSON); json.Unmarshal([]byte(body), &groups) != nil {
		c.t.Fatal(body)
	}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			names = append(names, v.GroupVersion)
		}
	}
	return names
}

func (c *cluster) aggregated() (names []string) {
	c.t.Helper()
	groups := apidiscoveryv2.APIGroupDiscoveryList{}
	if _, body := c.raw(c.t, "/apis", allAtOnce); json.Unmarshal([]byte(body), &groups) != nil {
		c.t.Fatal(body)
	}
	for _, g := range groups.Items {
		for _, v := range g.Versions {
			names = append(names, g.Name+"/"+v.Version)
		}
	}
	return names
}

func (c *cluster) trust() (data map[string]string) {
	c.t.Helper()
	plane.Eventually(c.t, "the ConfigMap for other servers", wait, func() error {
		m, err := c.Kube.CoreV1().ConfigMaps("kube-system").Get(c.t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
		if err == nil {
			data = m.Data
		}
		return err
	})
	return data
}

// TestMetricsHaveUpstreamsNames looks for the metrics that dashboards and alerts read, with the same labels, on both servers.
func TestMetricsHaveUpstreamsNames(t *testing.T) {
	ours, theirs := &cluster{Plane: plane.StartWherry(t, plane.Port), t: t}, &cluster{Plane: plane.StartUpstream(t, plane.Port+1000), t: t}
	text := map[string]string{}
	for _, c := range []*cluster{ours, theirs} {
		if _, err := c.Kube.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Kube.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		_, text[c.Name] = c.raw(t, "/metrics", "*/*")
	}
	for _, sample := range []string{
		`apiserver_request_total\{code="201",component="apiserver",dry_run="",group="",resource="configmaps",scope="resource",subresource="",verb="POST",version="v1"\} \d`,
		`apiserver_request_duration_seconds_count\{component="apiserver",dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"\} \d`,
		`apiserver_response_sizes_count\{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"\} \d`,
		`apiserver_current_inflight_requests\{request_kind="mutating"\} \d`,
		`apiserver_resource_objects\{group="",resource="configmaps"\} \d`,
		`etcd_request_duration_seconds_count\{group="",operation="create",resource="configmaps"\} \d`,
		`etcd_requests_total\{group="",operation="create",resource="configmaps"\} \d`,
		`kubernetes_build_info\{build_date="[^"]*",compiler="gc",git_commit="[^"]*",git_tree_state="[a-z]+",git_version="v1.37.\d",go_version="go[^"]*",major="1",minor="37",platform="linux/amd64"\} 1`,
		`workqueue_adds_total\{name="[a-z_]+"\} \d`, `workqueue_depth\{name="[a-z_]+"\} \d`, `workqueue_retries_total\{name="[a-z_]+"\} \d`, `workqueue_queue_duration_seconds_count\{name="[a-z_]+"\} \d`,
		`workqueue_work_duration_seconds_count\{name="[a-z_]+"\} \d`, `workqueue_unfinished_work_seconds\{name="[a-z_]+"\} \d`, `workqueue_longest_running_processor_seconds\{name="[a-z_]+"\} \d`,
		`aggregator_unavailable_apiservice\{name="v1.apps"\} 0`,
		`authentication_attempts\{result="success"\} \d`, `authentication_duration_seconds_count\{result="success"\} \d`, `authorization_attempts_total\{result="allowed"\} \d`, `authorization_duration_seconds_count\{result="allowed"\} \d`,
		`process_resident_memory_bytes \d`, `go_goroutines \d`,
	} {
		for name, text := range text {
			if !regexp.MustCompile(`(?m)^` + sample).MatchString(text) {
				head, _, _ := strings.Cut(sample, `\{`)
				t.Errorf("%s has no %s but %v", name, sample, regexp.MustCompile(`(?m)^`+head+`\{.*`).FindAllString(text, 4))
			}
		}
	}
}
