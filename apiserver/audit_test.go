package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"wherry.dev/wherry/apiserver/audit"
)

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver"]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: ["configmaps"]}]
- level: Request
  verbs: ["create", "patch", "delete"]
  resources: [{group: "", resources: ["pods", "pods/*"]}]
- level: Metadata
  omitStages: []
`

// audited runs a server that audits into a file by this policy, and returns what reads the events.
func audited(t testing.TB, policy string, change func(*audit.Config)) (*world, func() []auditv1.Event) {
	t.Helper()
	dir := t.TempDir()
	c := audit.Defaults()
	c.PolicyFile, c.Log.Path = filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "logs", "audit.log")
	if err := os.WriteFile(c.PolicyFile, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&c)
	}
	a, err := audit.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop := func() { once.Do(a.Close) }
	t.Cleanup(stop)
	w := start(t, func(c *Config) { c.Audit = a })
	return w, func() []auditv1.Event {
		t.Helper()
		stop()
		f, err := os.Open(c.Log.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the log can be read by others: %v %v", info.Mode(), err)
		}
		var events []auditv1.Event
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var e auditv1.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatalf("line %d is no event: %v: %s", len(events)+1, err, lines.Text())
			}
			events = append(events, e)
		}
		return events
	}
}

// of returns the events of one user about one resource and verb.
func of(events []auditv1.Event, resource, verb string) (out []auditv1.Event) {
	for _, e := range events {
		if e.ObjectRef != nil && e.ObjectRef.Resource == resource && e.Verb == verb {
			out = append(out, e)
		}
	}
	return out
}

// Each level records what upstream's records: who, what, and what came of it always; the object that was sent at Request; that which was
// answered at RequestResponse; and no credential at any.
func TestAuditRecordsWhatThePolicyAsksFor(t *testing.T) {
	w, read := audited(t, auditPolicy, nil)
	ctx := t.Context()
	cs := w.client(t, true)
	if _, err := cs.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "open sesame"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().Pods("default").Create(ctx, testPod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().Pods("default").Patch(ctx, "p", types.ApplyPatchType, []byte("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {a: b}\n"), metav1.PatchOptions{FieldManager: "m"}, ""); err != nil {
		t.Fatal(err)
	}
	zero := int64(0)
	if err := cs.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "wrong"}}, metav1.CreateOptions{}); err == nil {
		t.Fatal("a pod without containers")
	}
	watch, cancel := context.WithCancel(ctx)
	wr, err := cs.CoreV1().Services("default").Watch(watch, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range wr.ResultChan() {
	}
	for _, path := range []string{"/version", "/healthz", "/metrics"} {
		cs.CoreV1().RESTClient().Get().AbsPath(path).Do(ctx)
	}
	for _, token := range []string{nobody, "stolen-token"} {
		req, _ := http.NewRequest(http.MethodGet, "https://"+w.address+"/api/v1/nodes", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Audit-Id", "mine-"+token[:3])
		answer := httptest.NewRecorder()
		w.Handler().ServeHTTP(answer, req)
		if answer.Header().Get("Audit-Id") != "mine-"+token[:3] {
			t.Error("the answer does not say its audit ID")
		}
	}
	events := read()
	for _, e := range events {
		raw, _ := json.Marshal(e)
		for _, secret := range []string{"open sesame", "b3BlbiBzZXNhbWU", admin, nobody, "stolen-token", "managedFields"} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%q is in the log: %s", secret, raw)
			}
		}
		if e.AuditID == "" || e.RequestURI == "" || e.RequestReceivedTimestamp.IsZero() || e.StageTimestamp.IsZero() {
			t.Errorf("an event says too little: %s", raw)
		}
		if e.RequestURI == "/version" || e.RequestURI == "/healthz" || e.User.Username == "system:apiserver" {
			t.Errorf("the policy leaves this out: %s", raw)
		}
	}
	one := func(resource, verb string) auditv1.Event {
		t.Helper()
		found := of(events, resource, verb)
		if len(found) == 0 {
			t.Fatalf("no event of %s %s", verb, resource)
		}
		return found[0]
	}
	secret := one("secrets", "create")
	if secret.Level != auditv1.LevelMetadata || secret.Stage != auditv1.StageResponseComplete || secret.RequestObject != nil || secret.ResponseObject != nil || secret.ObjectRef.Name != "s" || secret.ObjectRef.Namespace != "default" ||
		secret.ObjectRef.APIVersion != "v1" || secret.ResponseStatus == nil || secret.ResponseStatus.Code != 201 || secret.User.Username != "root" || !slices.Contains(secret.User.Groups, "system:masters") ||
		!slices.Equal(secret.SourceIPs, []string{"127.0.0.1"}) || secret.UserAgent != "harness/1" || secret.Annotations["authorization.k8s.io/decision"] != "allow" {
		t.Errorf("secret: %+v", secret)
	}
	if _, ok := secret.Annotations["authorization.k8s.io/reason"]; !ok {
		t.Error("no reason")
	}
	cm := one("configmaps", "create")
	if cm.Level != auditv1.LevelRequestResponse || cm.RequestObject == nil || cm.ResponseObject == nil || !strings.Contains(string(cm.ResponseObject.Raw), `"uid":"`) || strings.Contains(string(cm.RequestObject.Raw), `"uid":"`) {
		t.Errorf("config map: %+v", cm)
	}
	if l := one("configmaps", "list"); l.ResponseObject == nil || !strings.Contains(string(l.ResponseObject.Raw), `"kind":"ConfigMapList"`) || l.RequestObject != nil {
		t.Errorf("list: %+v", l)
	}
	if p := one("pods", "patch"); p.RequestObject == nil || !strings.HasPrefix(string(p.RequestObject.Raw), `{"apiVersion":"v1"`) || p.ResponseObject != nil {
		t.Errorf("patch: %+v", p)
	}
	if d := one("pods", "delete"); d.RequestObject == nil || !strings.Contains(string(d.RequestObject.Raw), `"gracePeriodSeconds":0`) {
		t.Errorf("delete: %+v", d)
	}
	if created := of(events, "pods", "create"); len(created) != 2 || created[1].ResponseStatus.Code != 422 || created[1].ResponseStatus.Reason != metav1.StatusReasonInvalid || created[1].ResponseStatus.Message == "" {
		t.Errorf("refused pod: %+v", created)
	}
	var stages []auditv1.Stage
	for _, e := range of(events, "services", "watch") {
		stages = append(stages, e.Stage)
	}
	if !slices.Equal(stages, []auditv1.Stage{auditv1.StageResponseStarted, auditv1.StageResponseComplete}) {
		t.Errorf("a watch tells of %v", stages)
	}
	refused := of(events, "nodes", "list")
	if len(refused) != 2 {
		t.Fatalf("refused: %+v", refused)
	}
	if e := refused[0]; e.ResponseStatus.Code != 403 || e.Annotations["authorization.k8s.io/decision"] != "forbid" || e.User.Username != "nobody" || e.AuditID != "mine-nob" {
		t.Errorf("forbidden: %+v", e)
	}
	if e := refused[1]; e.ResponseStatus.Code != 401 || e.Stage != auditv1.StageResponseStarted || e.User.Username != "" || e.ResponseStatus.Message != "Authentication failed, attempted: bearer" {
		t.Errorf("unauthorized: %+v %+v", e, e.ResponseStatus)
	}
}

// A handler that panics is recorded as such, and answered 500.
func TestAuditOfPanics(t *testing.T) {
	w, read := audited(t, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n", nil)
	w.Handle("/boom", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") }))
	if r := w.client(t, false).CoreV1().RESTClient().Get().AbsPath("/boom").Do(t.Context()); r.Error() == nil {
		t.Error("no error")
	}
	var stages []string
	for _, e := range read() {
		if e.RequestURI == "/boom" {
			stages = append(stages, fmt.Sprint(e.Stage))
			if e.Stage == auditv1.StagePanic && e.ResponseStatus.Code != 500 {
				t.Errorf("%+v", e.ResponseStatus)
			}
		}
	}
	if !slices.Equal(stages, []string{"RequestReceived", "Panic"}) {
		t.Error(stages)
	}
}

// In blocking-strict mode nothing is served that cannot be recorded; in blocking mode it is.
func TestAuditThatCannotBeWritten(t *testing.T) {
	for mode, want := range map[string]int{audit.ModeBlockingStrict: 500, audit.ModeBlocking: 200} {
		w, _ := audited(t, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, users: [root]}]\n", func(c *audit.Config) {
			c.Log.Mode = mode
			c.Log.Path = "/dev/full"
		})
		code := 0
		w.client(t, false).CoreV1().RESTClient().Get().AbsPath("/version").Do(t.Context()).StatusCode(&code)
		if code != want {
			t.Errorf("%s: %d", mode, code)
		}
	}
}

// The webhook gets what the log would.
func TestAuditWebhook(t *testing.T) {
	got := make(chan auditv1.EventList, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var l auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&l); err != nil {
			t.Error(err)
		}
		got <- l
	}))
	defer hook.Close()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{CurrentContext: "c", Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: hook.URL}}}, file); err != nil {
		t.Fatal(err)
	}
	w, read := audited(t, "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata, users: [root]}]\n", func(c *audit.Config) { c.Webhook.ConfigFile = file })
	w.client(t, false).CoreV1().RESTClient().Get().AbsPath("/version").Do(t.Context())
	if events := read(); len(events) != 1 { // closing hands on what is queued
		t.Errorf("log: %+v", events)
	}
	if l := <-got; len(l.Items) != 1 || l.Items[0].RequestURI != "/version" || l.APIVersion != "audit.k8s.io/v1" {
		t.Errorf("webhook: %+v", l)
	}
}

// BenchmarkAudit measures a small request in process: without audit, and at each level.
func BenchmarkAudit(b *testing.B) {
	get := func(b *testing.B, w *world) {
		pods := w.InProcess(root).Kubernetes.CoreV1().Pods("default")
		fill(b, w, 1)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pods.Get(context.Background(), "p-1", metav1.GetOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("off", func(b *testing.B) { get(b, start(b, nil)) })
	for _, level := range []string{"None", "Metadata", "RequestResponse"} {
		b.Run(level, func(b *testing.B) {
			w, _ := audited(b, "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: "+level+"}]\n", nil)
			get(b, w)
		})
	}
}
