package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels}}
}

func receive(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	return watch.Event{}
}

// TestWatchList shows the state as events, its end as a bookmark, and changes of what matches a selector.
func TestWatchList(t *testing.T) {
	w := start(t, nil)
	for name, cs := range map[string]kubernetes.Interface{"json": w.client(t, false), "protobuf": w.client(t, true), "in process": w.InProcess(root).Kubernetes} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			label := strings.ReplaceAll(name, " ", "-")
			maps := cs.CoreV1().ConfigMaps("default")
			cm, err := maps.Create(ctx, configMap(label, map[string]string{"for": label}), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			yes := true
			wr, err := maps.Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, LabelSelector: "for=" + label})
			if err != nil {
				t.Fatal(err)
			}
			defer wr.Stop()
			if e := receive(t, wr); e.Type != watch.Added || e.Object.(*corev1.ConfigMap).UID != cm.UID {
				t.Fatalf("%+v", e)
			}
			e := receive(t, wr)
			mark, ok := e.Object.(*corev1.ConfigMap)
			if e.Type != watch.Bookmark || !ok || mark.Annotations[metav1.InitialEventsAnnotationKey] != "true" || mark.ResourceVersion == "" {
				t.Fatalf("%+v", e)
			}
			cm.Labels["for"] = "somebody-else"
			if _, err := maps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			if e := receive(t, wr); e.Type != watch.Deleted || e.Object.(*corev1.ConfigMap).UID != cm.UID {
				t.Fatalf("what no longer matches: %+v", e)
			}
		})
	}
}

// TestWatchEnds shows that timeoutSeconds ends a watch, and that a revision that was never there is refused.
func TestWatchEnds(t *testing.T) {
	w := start(t, nil)
	maps := w.client(t, false).CoreV1().ConfigMaps("default")
	one := int64(1)
	wr, err := maps.Watch(context.Background(), metav1.ListOptions{TimeoutSeconds: &one})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case e, ok := <-wr.ResultChan():
		if ok {
			t.Fatalf("unexpected %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch did not end")
	}
}

// TestInformersShare shows that informers of this process hold the watch cache's own objects, and that an in-process
// stream leaves no goroutine behind.
func TestInformersShare(t *testing.T) {
	w := start(t, nil)
	set := w.InProcess(root)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	maps := set.Kubernetes.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, configMap("shared", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	informer := set.Informers.Core().V1().ConfigMaps()
	synced := informer.Informer().HasSynced
	set.Informers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		t.Fatal("no sync")
	}
	held, err := informer.Lister().ConfigMaps("default").Get("shared")
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.Storage(corev1.SchemeGroupVersion.WithResource("configmaps")).Get(ctx, "default", "shared", "0")
	if err != nil {
		t.Fatal(err)
	}
	if held != o.Object.(*corev1.ConfigMap) {
		t.Error("the informer has a copy of its own")
	}
	cancel()
	set.Informers.Shutdown()

	before := runtime.NumGoroutine()
	for range 20 {
		wr, err := maps.Watch(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wr.Stop()
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+5; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// TestRenderings compares lists, tables and metadata in every encoding with what the objects say.
func TestRenderings(t *testing.T) {
	w := start(t, nil)
	ctx := context.Background()
	cs, pb := w.client(t, false), w.client(t, true)
	for i := range 7 {
		if _, err := cs.CoreV1().Pods("default").Create(ctx, testPod(fmt.Sprintf("p%d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	asJSON, err := cs.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	asProto, err := pb.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(asJSON.Items) != 7 || !reflect.DeepEqual(asJSON.Items, asProto.Items) || asJSON.ResourceVersion != asProto.ResourceVersion {
		t.Fatal("lists differ by encoding")
	}
	// Pages join to the whole.
	var names []string
	o := metav1.ListOptions{Limit: 3}
	for {
		page, err := pb.CoreV1().Pods("").List(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Items {
			names = append(names, p.Name)
		}
		if o.Continue = page.Continue; o.Continue == "" {
			break
		}
		if page.RemainingItemCount == nil || int(*page.RemainingItemCount) != 7-len(names) {
			t.Fatalf("remaining %v after %d", page.RemainingItemCount, len(names))
		}
	}
	if strings.Join(names, " ") != "p0 p1 p2 p3 p4 p5 p6" {
		t.Fatal(names)
	}

	code, _, body := w.raw(t, "GET", "/api/v1/namespaces/default/pods?limit=2", admin, map[string]string{"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, "")
	var table metav1.Table
	if err := json.Unmarshal([]byte(body), &table); code != 200 || err != nil || table.Kind != "Table" || len(table.Rows) != 2 || table.Continue == "" || len(table.ColumnDefinitions) == 0 || table.Rows[0].Cells[0] != "p0" {
		t.Fatal(code, body)
	}
	var row metav1.PartialObjectMetadata
	if err := json.Unmarshal(table.Rows[0].Object.Raw, &row); err != nil || row.Kind != "PartialObjectMetadata" || row.Name != "p0" {
		t.Fatal(string(table.Rows[0].Object.Raw))
	}
	code, _, body = w.raw(t, "GET", "/api/v1/namespaces/default/pods/p1", admin, map[string]string{"Accept": "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io"}, "")
	if code != 406 {
		t.Fatal(code, body)
	}

	// What is never stored has no columns.
	code, _, body = w.raw(t, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", admin, map[string]string{"Content-Type": "application/json", "Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
		`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`)
	if code != 406 {
		t.Fatal(code, body)
	}

	mc, err := metadata.NewForConfig(w.config(admin))
	if err != nil {
		t.Fatal(err)
	}
	pods := mc.Resource(corev1.SchemeGroupVersion.WithResource("pods"))
	partial, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil || len(partial.Items) != 7 || partial.Items[3].UID != asJSON.Items[3].UID {
		t.Fatal(partial, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	wr, err := pods.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer wr.Stop()
	if e := receive(t, wr); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "p0" {
		t.Fatalf("%+v", e)
	}

	if err := cs.CoreV1().Pods("default").DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{LabelSelector: "name in (p1,p2)"}); err != nil {
		t.Fatal(err)
	}
	left, err := cs.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(left.Items) != 5 {
		t.Fatal(len(left.Items), err)
	}
}
