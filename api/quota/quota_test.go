package quota

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

// evaluatorOf returns the evaluator of a resource in the core group.
func evaluatorOf(t *testing.T, resource string) quota.Evaluator {
	t.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, e := range Evaluators(nil, func() time.Time { return now }) {
		if e.GroupResource().Resource == resource {
			return e
		}
	}
	t.Fatalf("no evaluator of %s", resource)
	return nil
}

func decode(t *testing.T, obj runtime.Object, text string) runtime.Object {
	t.Helper()
	if err := json.Unmarshal([]byte(text), obj); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return obj
}

func text(list corev1.ResourceList) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		q := list[name]
		words = append(words, string(name)+"="+q.String())
	}
	return strings.Join(words, " ")
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		resource string
		obj      runtime.Object
		text     string
		want     string
	}{
		{"pods", &corev1.Pod{}, `{"spec":{"containers":[{"name":"c"}]}}`, "count/pods=1 pods=1"},
		{"pods", &corev1.Pod{}, `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1","hugepages-2Mi":"4Mi","example.com/gpu":"2"},"limits":{"memory":"1Gi"}}},{"name":"d","resources":{"requests":{"cpu":"1"}}}],
			"initContainers":[{"name":"i","resources":{"requests":{"cpu":"5"}}}]}}`,
			"count/pods=1 cpu=5 hugepages-2Mi=4Mi limits.memory=1Gi pods=1 requests.cpu=5 requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi"},
		{"pods", &corev1.Pod{}, `{"spec":{"overhead":{"cpu":"1"},"containers":[{"name":"c","resources":{"requests":{"ephemeral-storage":"1Gi"}}}]}}`, "count/pods=1 cpu=1 ephemeral-storage=1Gi pods=1 requests.cpu=1 requests.ephemeral-storage=1Gi"},
		{"pods", &corev1.Pod{}, `{"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Succeeded"}}`, "count/pods=1"},
		{"pods", &corev1.Pod{}, `{"metadata":{"deletionTimestamp":"2025-12-31T23:59:00Z","deletionGracePeriodSeconds":30}}`, "count/pods=1"},
		{"pods", &corev1.Pod{}, `{"metadata":{"deletionTimestamp":"2025-12-31T23:59:00Z","deletionGracePeriodSeconds":90}}`, "count/pods=1 pods=1"},
		{"services", &corev1.Service{}, `{"spec":{"type":"ClusterIP","ports":[{}]}}`, "count/services=1 services=1 services.loadbalancers=0 services.nodeports=0"},
		{"services", &corev1.Service{}, `{"spec":{"type":"NodePort","ports":[{},{}]}}`, "count/services=1 services=1 services.loadbalancers=0 services.nodeports=2"},
		{"services", &corev1.Service{}, `{"spec":{"type":"LoadBalancer","ports":[{},{}]}}`, "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2"},
		{"services", &corev1.Service{}, `{"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[{"nodePort":30000},{}]}}`, "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1"},
		{"persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, `{"spec":{"resources":{"requests":{"storage":"1500m"}}}}`, "count/persistentvolumeclaims=1 persistentvolumeclaims=1 requests.storage=2"},
		{"persistentvolumeclaims", &corev1.PersistentVolumeClaim{}, `{"spec":{"storageClassName":"gold","resources":{"requests":{"storage":"1Gi"}}},"status":{"allocatedResources":{"storage":"2Gi"}}}`,
			"count/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/persistentvolumeclaims=1 gold.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"},
		{"secrets", &corev1.Secret{}, `{}`, "count/secrets=1 secrets=1"},
	} {
		used, err := evaluatorOf(t, c.resource).Usage(decode(t, c.obj, c.text))
		if got := text(used); err != nil || got != c.want {
			t.Errorf("%s %s uses\n     %s %v\nwant %s", c.resource, c.text, got, err, c.want)
		}
	}
}

func TestMatchingResources(t *testing.T) {
	names := []corev1.ResourceName{"pods", "count/pods", "cpu", "limits.memory", "requests.ephemeral-storage", "hugepages-2Mi", "requests.hugepages-1Gi", "requests.example.com/gpu", "example.com/gpu",
		"services", "services.nodeports", "count/services", "persistentvolumeclaims", "requests.storage", "gold.storageclass.storage.k8s.io/requests.storage", "secrets", "count/secrets", "count/deployments.apps"}
	for resource, want := range map[string]string{
		"pods":                   "pods count/pods cpu limits.memory requests.ephemeral-storage hugepages-2Mi requests.hugepages-1Gi requests.example.com/gpu",
		"services":               "services services.nodeports count/services",
		"persistentvolumeclaims": "persistentvolumeclaims requests.storage gold.storageclass.storage.k8s.io/requests.storage",
	} {
		var got []string
		for _, name := range evaluatorOf(t, resource).MatchingResources(names) {
			got = append(got, string(name))
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("%s use\n     %s\nwant %s", resource, got, want)
		}
	}
}

func TestPodScopes(t *testing.T) {
	const plain, deadline, guaranteed = `{"spec":{"containers":[{"name":"c"}]}}`, `{"spec":{"activeDeadlineSeconds":5,"containers":[{"name":"c"}]}}`,
		`{"spec":{"priorityClassName":"high","containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}],"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"namespaces":["other"]}]}}}}`
	e := evaluatorOf(t, "pods")
	for _, c := range []struct {
		scope corev1.ScopedResourceSelectorRequirement
		pod   string
		in    bool
	}{
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "Terminating"}, plain, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "Terminating"}, deadline, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "NotTerminating"}, plain, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "BestEffort"}, plain, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "BestEffort"}, guaranteed, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "NotBestEffort"}, guaranteed, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "Exists"}, plain, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "In", Values: []string{"high"}}, guaranteed, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "NotIn", Values: []string{"high"}}, guaranteed, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "PriorityClass", Operator: "NotIn", Values: []string{"high"}}, plain, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "CrossNamespacePodAffinity", Operator: "Exists"}, plain, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: "CrossNamespacePodAffinity", Operator: "Exists"}, guaranteed, true},
	} {
		matching, err := e.MatchingScopes(decode(t, &corev1.Pod{}, c.pod), []corev1.ScopedResourceSelectorRequirement{c.scope})
		if err != nil || (len(matching) == 1) != c.in {
			t.Errorf("%v of %s: %v %v", c.scope, c.pod, matching, err)
		}
	}
}

func TestPodConstraints(t *testing.T) {
	e := evaluatorOf(t, "pods")
	pod := decode(t, &corev1.Pod{}, `{"spec":{"containers":[{"name":"b"},{"name":"a"},{"name":"c","resources":{"requests":{"cpu":"1"},"limits":{"memory":"1"}}}],"initContainers":[{"name":"i"}]}}`)
	err := e.Constraints([]corev1.ResourceName{"requests.cpu", "limits.memory", "pods", "requests.ephemeral-storage"}, pod)
	if want := "must specify limits.memory for: a,b,i; requests.cpu for: a,b,i"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if err := e.Constraints([]corev1.ResourceName{"pods"}, pod); err != nil {
		t.Error(err)
	}
}
