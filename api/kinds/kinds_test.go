package kinds

import (
	"context"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// TestDiscoveryIsUpstreams compares names, scopes and verbs with testdata/kinds/discovery, a list of what upstream 1.37
// says in its discovery documents.
func TestDiscoveryIsUpstreams(t *testing.T) {
	text, err := os.ReadFile("testdata/kinds/discovery")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(text)) {
		words := strings.SplitN(strings.TrimSpace(line), " ", 3)
		want[words[0]+" "+words[1]] = words[2]
	}
	orDash := func(list []string) string {
		if len(list) == 0 {
			return "-"
		}
		return strings.Join(list, ",")
	}
	sorted := func(list []string) string { return orDash(slices.Sorted(slices.Values(list))) }
	for _, k := range All() {
		gv := k.GroupVersionKind.GroupVersion().String()
		scope := "cluster"
		if k.Namespaced {
			scope = "namespaced"
		}
		got := map[string]string{
			k.Plural: fmt.Sprint(k.Singular, " ", scope, " ", k.GroupVersionKind.Kind, " ", orDash(k.ShortNames), " ", orDash(k.Categories), " ", sorted(k.Verbs)),
		}
		sub := func(name string, kind schema.GroupVersionKind, verbs []string) {
			word := kind.Kind
			if kind.GroupVersion() != k.GroupVersionKind.GroupVersion() && !kind.Empty() {
				word = kind.Group + "/" + kind.Version + "/" + kind.Kind
			}
			if word == "" {
				word = k.GroupVersionKind.Kind
			}
			got[k.Plural+"/"+name] = fmt.Sprint("- ", scope, " ", word, " - - ", sorted(verbs))
		}
		for name, s := range k.Subresources {
			sub(name, s.Kind, s.Verbs)
		}
		for _, s := range k.ConnectSubresources {
			sub(s.Name, s.Kind, s.Verbs)
		}
		for name, line := range got {
			if want := want[gv+" "+name]; line != want {
				t.Errorf("%s %s:\n got %s\nwant %s", gv, name, line, want)
			}
		}
		for name := range want {
			if rest, ok := strings.CutPrefix(name, gv+" "+k.Plural+"/"); ok && got[k.Plural+"/"+rest] == "" {
				t.Errorf("%s is missing", name)
			}
		}
	}
}

// TestKindsAreWhole: what is stored can be told apart, made and listed; names are not used twice.
func TestKindsAreWhole(t *testing.T) {
	resources, stored := map[schema.GroupVersionResource]bool{}, map[string]*Kind{}
	for _, k := range All() {
		if resources[k.GroupVersionResource()] {
			t.Errorf("%s comes twice", k.GroupVersionResource())
		}
		resources[k.GroupVersionResource()] = true
		if slices.Contains(k.Verbs, "get") != (k.StoragePrefix != "" || k.Computed) {
			t.Errorf("%s: storage prefix %q, verbs %v", k.Plural, k.StoragePrefix, k.Verbs)
		}
		if k.StoragePrefix == "" {
			continue
		}
		if other := stored[k.StoragePrefix]; other != nil && k.Hub == nil && other.Hub == nil {
			t.Errorf("%s and %s are both stored in %s", k.Plural, other.Plural, k.StoragePrefix)
		}
		stored[k.StoragePrefix] = k
		if k.NewList == nil || k.Row == nil || k.SelectableFields == nil || k.Validate == nil || k.ValidateUpdate == nil || k.ValidateName == nil {
			t.Errorf("%s lacks a rule", k.Plural)
		}
		set := k.SelectableFields(k.New())
		for _, label := range k.FieldLabels {
			if _, ok := set[label]; !ok && label != "metadata.namespace" && label != "status.podIPs" { // accepted, and never equal, as upstream
				t.Errorf("%s: field %s can be asked for but has no value", k.Plural, label)
			}
		}
	}
}

// filler makes random objects. It leaves strings short, so that some are right, and mixes in values that mean something.
func filler(seed int64) *randfill.Filler {
	words := []string{"", "a", "None", "10.0.0.1", "fd00::1", "TCP", "LoadBalancer", "ClusterIP", "ExternalName", "NodePort", "ClientIP", "IPv4", "a/b", "10.0.0.0/8",
		"kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "Local", "In", "%", "User", "ServiceAccount", "object", "array"}
	depth := 0
	return randfill.New().NilChance(.3).NumElements(0, 3).RandSource(rand.NewSource(seed)).Funcs(
		func(s *string, c randfill.Continue) {
			*s = words[c.Rand.Intn(len(words))]
		},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(c.Rand.Int63n(4000)-1000, resource.DecimalSI)
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			*v = intstr.FromInt32(c.Rand.Int31n(70000) - 10)
			if c.Rand.Intn(2) == 0 {
				*v = intstr.FromString(words[c.Rand.Intn(len(words))])
			}
		},
		func(tm *metav1.Time, c randfill.Continue) { *tm = metav1.Unix(c.Rand.Int63n(2e9), 0) },
		func(tm *metav1.MicroTime, c randfill.Continue) {
			*tm = metav1.NewMicroTime(time.Unix(c.Rand.Int63n(2e9), 0))
		},
		func(f *metav1.FieldsV1, c randfill.Continue) { f.Raw = []byte("{}") },
		// Schemas hold schemas, more than one each: without a floor they would go on for ever.
		func(s *apiextensionsv1.JSONSchemaProps, c randfill.Continue) {
			if depth++; depth <= 2 {
				c.FillNoCustom(s)
			} else {
				c.Fill(&s.Type)
			}
			depth--
		},
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = []byte(words[c.Rand.Intn(len(words))]) },
		func(e *runtime.RawExtension, c randfill.Continue) { e.Raw = []byte(words[c.Rand.Intn(len(words))]) },
	)
}

// checkNoPanic runs every rule of a kind over a random object and a random old one.
func checkNoPanic(t *testing.T, k *Kind, seed int64) {
	t.Helper()
	fill, ctx := filler(seed), context.Background()
	random := func() runtime.Object {
		obj := k.New()
		fill.Fill(obj)
		if k.Default != nil {
			k.Default(obj)
		}
		return obj
	}
	obj, old := random(), random()
	if k.Default != nil {
		again := obj.DeepCopyObject()
		if k.Default(again); !equality.Semantic.DeepEqual(obj, again) {
			t.Errorf("%s: defaults of defaults differ (seed %d):\n%s\n%s", k.Plural, seed, show(obj), show(again))
		}
	}
	before := old.DeepCopyObject()
	update := func(prepare func(context.Context, runtime.Object, runtime.Object), s *Subresource) {
		changed := obj.DeepCopyObject()
		if s != nil {
			prepare = s.PrepareForUpdate
		}
		if prepare != nil {
			prepare(ctx, changed, old)
		}
		switch {
		case s != nil:
			s.ValidateUpdate(ctx, changed, old)
		case k.ValidateUpdate != nil:
			k.ValidateUpdate(ctx, changed, old)
		}
	}
	if k.ValidateUpdate != nil {
		update(k.PrepareForUpdate, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(k.Subresources)) {
		if k.Subresources[name].Read == nil {
			update(nil, k.Subresources[name])
		}
	}
	if !equality.Semantic.DeepEqual(old, before) {
		t.Errorf("%s: an update changed the old object (seed %d)", k.Plural, seed)
	}
	if k.Row != nil {
		k.Row(obj, time.Now())
	}
	if k.SelectableFields != nil {
		k.SelectableFields(obj)
	}
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(ctx, obj)
	}
	if k.Validate != nil {
		k.Validate(ctx, obj)
	}
}

func TestRandomObjects(t *testing.T) {
	for _, k := range All() {
		for seed := range int64(200) {
			checkNoPanic(t, k, seed)
		}
	}
}

func FuzzKinds(f *testing.F) {
	f.Add(uint8(0), int64(1))
	all := All()
	f.Fuzz(func(t *testing.T, kind uint8, seed int64) {
		checkNoPanic(t, all[int(kind)%len(all)], seed)
	})
}

// TestEventsAreTheSameInBothAPIs: whatever a client of events.k8s.io writes comes back to it from the stored form.
func TestEventsAreTheSameInBothAPIs(t *testing.T) {
	hub := NewEvents().Hub
	for seed := range int64(200) {
		in := &eventsv1.Event{}
		filler(seed).Fill(in)
		in.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
		before := in.DeepCopy()
		stored, err := hub.ToHub(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := stored.GetObjectKind().GroupVersionKind(); got != hub.HubIsKind {
			t.Fatalf("stored as %s", got)
		}
		out, err := hub.FromHub(stored)
		if err != nil {
			t.Fatal(err)
		}
		if !equality.Semantic.DeepEqual(out, in) || !equality.Semantic.DeepEqual(in, before) {
			t.Fatalf("seed %d: wrote %s, read %s", seed, show(in), show(out))
		}
	}
}

func TestEventFields(t *testing.T) {
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "n1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "n1", UID: "u"},
		Reason:         "Started", Type: "Normal", Source: corev1.EventSource{Component: "kubelet"},
	}
	core, renamed := Events().SelectableFields(e), NewEvents().SelectableFields(newEvent(e))
	for label, want := range map[string]string{
		"involvedObject.name": "p", "involvedObject.uid": "u", "source": "kubelet", "reportingComponent": "kubelet", "metadata.namespace": "n1",
	} {
		if core[label] != want {
			t.Errorf("%s is %q, want %q", label, core[label], want)
		}
	}
	for label, want := range map[string]string{"regarding.name": "p", "reportingController": "kubelet", "reason": "Started"} {
		if renamed[label] != want {
			t.Errorf("%s is %q, want %q", label, renamed[label], want)
		}
	}
	if ttl := Events().TTL(e); ttl != time.Hour {
		t.Errorf("events are kept for %s", ttl)
	}
}

// TestServiceUpdateKeepsWhatWasGiven: a service replaced from the manifest that made it keeps its addresses and ports.
func TestServiceUpdateKeepsWhatWasGiven(t *testing.T) {
	k := Services()
	manifest := func() *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", ResourceVersion: "7"},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
				Ports: []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 53, Protocol: corev1.ProtocolUDP}}},
		}
	}
	old := manifest()
	k.Default(old)
	old.Spec.ClusterIP, old.Spec.ClusterIPs = "10.96.0.9", []string{"10.96.0.9"}
	old.Spec.Ports[0].NodePort, old.Spec.Ports[1].NodePort, old.Spec.HealthCheckNodePort = 30001, 30002, 30003
	update := func(change func(*corev1.Service)) *corev1.Service {
		s := manifest()
		change(s)
		k.Default(s)
		k.PrepareForUpdate(context.Background(), s, old)
		if errs := k.ValidateUpdate(context.Background(), s, old); len(errs) > 0 {
			t.Error(errs)
		}
		return s
	}
	same := update(func(*corev1.Service) {})
	if !equality.Semantic.DeepEqual(same.Spec, old.Spec) {
		t.Errorf("spec became %s, was %s", show(same.Spec), show(old.Spec))
	}
	swapped := update(func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30002; s.Spec.Ports[1].NodePort = 30001 })
	if swapped.Spec.Ports[0].NodePort != 30002 || swapped.Spec.Ports[1].NodePort != 30001 {
		t.Errorf("ports became %s", show(swapped.Spec.Ports))
	}
	plain := update(func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeClusterIP, "" })
	if plain.Spec.Ports[0].NodePort != 0 || plain.Spec.HealthCheckNodePort != 0 || plain.Spec.ClusterIP != "10.96.0.9" {
		t.Errorf("as ClusterIP it became %s", show(plain.Spec))
	}
	external := update(func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "a.b"}
	})
	if external.Spec.ClusterIP != "" || len(external.Spec.ClusterIPs) > 0 {
		t.Errorf("as ExternalName it became %s", show(external.Spec))
	}
}

// TestSameEndpointSeesEveryField: a difference in any field of an endpoint or port is a difference.
func TestSameEndpointSeesEveryField(t *testing.T) {
	for seed := range int64(3000) {
		fill := filler(seed)
		var a, b discoveryv1.EndpointSlice
		fill.Fill(&a.Endpoints)
		fill.Fill(&a.Ports)
		b = *a.DeepCopy()
		// Change one field of one endpoint or port, found by reflection so that new ones are not forgotten.
		if len(a.Endpoints) > 0 {
			v := reflect.ValueOf(&b.Endpoints[0]).Elem()
			fill.Fill(v.Field(int(seed) % v.NumField()).Addr().Interface())
			if got, want := sameEndpoint(a.Endpoints[0], b.Endpoints[0]), equality.Semantic.DeepEqual(a.Endpoints[0], b.Endpoints[0]); got != want {
				t.Fatalf("seed %d: same %v, want %v:\n%s\n%s", seed, got, want, show(a.Endpoints[0]), show(b.Endpoints[0]))
			}
		}
		if len(a.Ports) > 0 {
			v := reflect.ValueOf(&b.Ports[0]).Elem()
			fill.Fill(v.Field(int(seed) % v.NumField()).Addr().Interface())
			if got, want := samePort(a.Ports[0], b.Ports[0]), equality.Semantic.DeepEqual(a.Ports[0], b.Ports[0]); got != want {
				t.Fatalf("seed %d: same %v, want %v:\n%s\n%s", seed, got, want, show(a.Ports[0]), show(b.Ports[0]))
			}
		}
	}
}

// BenchmarkWrites measures the rules of the writes that a cluster makes most: what they cost is paid on every one.
func BenchmarkWrites(b *testing.B) {
	for _, c := range []struct{ file, op string }{
		{"lease", "update"}, {"event", "create"}, {"node", "status"}, {"endpointslice", "update"}, {"service-plain", "create"}, {"configmap", "create"},
	} {
		b.Run(c.file+"/"+c.op, func(b *testing.B) {
			k, obj, old, _ := (&kindCase{Op: c.op, File: c.file}).question(b)
			b.ReportAllocs()
			for b.Loop() {
				kindAnswer(k, c.op, obj, old)
			}
		})
	}
}
