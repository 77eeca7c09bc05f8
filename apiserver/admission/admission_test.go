package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"regexp"
	goruntime "runtime"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/client"
)

// world is a chain over a fake cluster.
type world struct {
	*Chain
	k *fake.Clientset
}

// grants is an authorizer and rule resolver for tests: who may do what, as "user verb resource name".
type grants struct {
	allowed map[string]bool
	rules   map[string][]rbacv1.PolicyRule
	roles   map[string][]rbacv1.PolicyRule
}

func (g grants) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if g.allowed[strings.Join([]string{a.GetUser().GetName(), a.GetVerb(), a.GetResource(), a.GetName()}, " ")] {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (g grants) Rules(_ context.Context, who user.Info, _ string) ([]rbacv1.PolicyRule, error) {
	return g.rules[who.GetName()], nil
}

func (g grants) RoleRules(_ context.Context, namespace, name string) ([]rbacv1.PolicyRule, bool, error) {
	rules, ok := g.roles[strings.TrimPrefix(namespace+"/"+name, "/")]
	return rules, ok, nil
}

func newWorld(t testing.TB, g grants, objects ...runtime.Object) *world {
	t.Helper()
	objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}})
	k := fake.NewClientset(objects...)
	chain, err := New(Config{Authorizer: g, Rules: g, Served: func(schema.GroupVersionResource) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	set := &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}
	if err := chain.Initialize(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	set.Informers.Start(t.Context().Done())
	set.Informers.WaitForCacheSync(t.Context().Done())
	return &world{chain, k}
}

// request describes what is admitted; kind and resource follow from the object.
type request struct {
	op       admission.Operation
	object   runtime.Object
	old      runtime.Object
	resource string // group|resource/sub
	name     string
	user     user.Info
}

func (w *world) admit(t testing.TB, r request) error {
	t.Helper()
	group, rest, ok := strings.Cut(r.resource, "|")
	if !ok {
		group, rest = "", r.resource
	}
	plural, sub, _ := strings.Cut(rest, "/")
	kind := schema.GroupVersionKind{Group: group, Version: "v1"}
	namespace := ""
	for _, o := range []runtime.Object{r.object, r.old} {
		if m, ok := o.(metav1.Object); ok && o != nil {
			namespace = m.GetNamespace()
			if r.name == "" {
				r.name = m.GetName()
			}
			break
		}
	}
	if plural == "namespaces" {
		kind.Kind, namespace = "Namespace", r.name
	}
	if r.user == nil {
		r.user = &user.DefaultInfo{Name: "jane"}
	}
	a := admission.NewAttributesRecord(r.object, r.old, kind, namespace, r.name, schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}, sub, r.op, nil, false, r.user)
	for _, p := range w.Plugins() {
		if m, ok := p.(admission.MutationInterface); ok && p.Handles(r.op) {
			if err := m.Admit(t.Context(), a, nil); err != nil {
				return err
			}
		}
	}
	for _, p := range w.Plugins() {
		if v, ok := p.(admission.ValidationInterface); ok && p.Handles(r.op) {
			if err := v.Validate(t.Context(), a, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func account(change func(*corev1.ServiceAccount)) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}}
	if change != nil {
		change(a)
	}
	return a
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(p)
	}
	return p
}

// What a plain pod becomes, byte for byte but for the volume's random end.
func TestPlainPodGolden(t *testing.T) {
	w := newWorld(t, grants{}, account(func(a *corev1.ServiceAccount) { a.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}} }))
	p := pod(func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "i"}} })
	if err := w.admit(t, request{op: admission.Create, object: p, resource: "pods"}); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p.Spec)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`kube-api-access-[bcdfghjklmnpqrstvwxz2456789]{5}"`).ReplaceAllString(string(data), `kube-api-access-RANDO"`)
	const mount = `"volumeMounts":[{"name":"kube-api-access-RANDO","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}]`
	const want = `{"volumes":[{"name":"kube-api-access-RANDO","projected":{"sources":[` +
		`{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},` +
		`{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},` +
		`{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}}],` +
		`"initContainers":[{"name":"init","image":"i","resources":{},` + mount + `}],"containers":[{"name":"c","image":"i","resources":{},` + mount + `}],` +
		`"serviceAccountName":"default","serviceAccount":"default","imagePullSecrets":[{"name":"registry"}],` +
		`"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},` +
		`{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],` +
		`"priority":0,"preemptionPolicy":"PreemptLowerPriority"}`
	if got != want {
		t.Errorf("pod became\n%s\nwant\n%s", got, want)
	}
}

func TestServiceAccountChoices(t *testing.T) {
	for name, c := range map[string]struct {
		account func(*corev1.ServiceAccount)
		pod     func(*corev1.Pod)
		volumes int
		refused string
	}{
		"account says no": {func(a *corev1.ServiceAccount) { a.AutomountServiceAccountToken = new(false) }, nil, 0, ""},
		"pod says yes":    {func(a *corev1.ServiceAccount) { a.AutomountServiceAccountToken = new(false) }, func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = new(true) }, 1, ""},
		"pod says no":     {nil, func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = new(false) }, 0, ""},
		"place is taken": {nil, func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: tokenMountPath}}
		}, 0, ""},
		"brings its own": {nil, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}}}
		}, 1, ""},
		"no such account": {nil, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }, 0, `pods "p" is forbidden: error looking up service account ns/x: serviceaccount "x" not found`},
		"mirror pod":      {nil, func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""} }, 0, ""},
		"mirror, account": {nil, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
			p.Spec.ServiceAccountName = "default"
		}, 0, "a mirror pod may not reference service accounts"},
		"mirror, secret": {nil, func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: ""}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
		}, 0, "a mirror pod may not reference secrets"},
		"enforced, listed": {enforced, secretVolume("listed"), 2, ""},
		"enforced, other":  {enforced, secretVolume("other"), 0, `volume with secret.secretName="other" is not allowed because service account default does not reference that secret`},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod(c.pod)
			err := newWorld(t, grants{}, account(c.account)).admit(t, request{op: admission.Create, object: p, resource: "pods"})
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Fatalf("error %v, want %q", err, c.refused)
			}
			if err == nil && len(p.Spec.Volumes) != c.volumes {
				t.Errorf("volumes %v", p.Spec.Volumes)
			}
		})
	}
}

func enforced(a *corev1.ServiceAccount) {
	a.Annotations = map[string]string{enforceMountableAnnotation: "true"}
	a.Secrets = []corev1.ObjectReference{{Name: "listed"}}
}

func secretVolume(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
	}
}

// The first pod of a namespace waits for its account, by event.
func TestPodWaitsForTheDefaultAccount(t *testing.T) {
	w := newWorld(t, grants{})
	admitted := make(chan error, 1)
	go func() { admitted <- w.admit(t, request{op: admission.Create, object: pod(nil), resource: "pods"}) }()
	for waiting := false; !waiting; goruntime.Gosched() {
		w.cluster.mu.Lock()
		waiting = len(w.cluster.waiting) > 0
		w.cluster.mu.Unlock()
	}
	if _, err := w.k.CoreV1().ServiceAccounts("ns").Create(t.Context(), account(nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-admitted; err != nil {
		t.Fatal(err)
	}
	w.cluster.mu.Lock()
	defer w.cluster.mu.Unlock()
	if len(w.cluster.waiting) != 0 {
		t.Error("a waiter is left")
	}
}

func TestNamespaceLifecycle(t *testing.T) {
	w := newWorld(t, grants{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "leaving"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}})
	config := func(namespace string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "c"}}
	}
	if err := w.admit(t, request{op: admission.Create, object: config("nowhere"), resource: "configmaps"}); !apierrors.IsNotFound(err) || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("no namespace: %v", err)
	}
	err := w.admit(t, request{op: admission.Create, object: config("leaving"), resource: "configmaps"})
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || !strings.Contains(err.Error(), "unable to create new content in namespace leaving because it is being terminated") {
		t.Errorf("terminating: %v", err)
	}
	if err := w.admit(t, request{op: admission.Update, object: config("leaving"), old: config("leaving"), resource: "configmaps"}); err != nil {
		t.Errorf("update while terminating: %v", err)
	}
	if err := w.admit(t, request{op: admission.Delete, old: config("nowhere"), resource: "configmaps"}); err != nil {
		t.Errorf("delete: %v", err)
	}
	for _, name := range []string{"default", "kube-system", "kube-public"} {
		if err := w.admit(t, request{op: admission.Delete, name: name, resource: "namespaces"}); !apierrors.IsForbidden(err) {
			t.Errorf("%s may be deleted: %v", name, err)
		}
	}
	// Made behind the cache's back: the live answer counts.
	stopped, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	idle := &client.Set{Kubernetes: w.k, Informers: informers.NewSharedInformerFactory(w.k, 0)}
	if err := (&world{stopped, w.k}).admit(t, request{op: admission.Create, object: config("ns"), resource: "configmaps"}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("before Initialize: %v", err)
	}
	if err := stopped.Initialize(t.Context(), idle); err != nil {
		t.Fatal(err)
	}
	if err := (&world{stopped, w.k}).admit(t, request{op: admission.Create, object: config("ns"), resource: "configmaps"}); err != nil {
		t.Errorf("with an empty cache: %v", err)
	}
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, isDefault bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: isDefault, PreemptionPolicy: new(corev1.PreemptNever)}
	}
	w := newWorld(t, grants{}, account(nil), class("high", 1000, false), class("usual", 10, true))
	for name, c := range map[string]struct {
		change  func(*corev1.Pod)
		value   int32
		refused string
	}{
		"default":        {nil, 10, ""},
		"named":          {func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }, 1000, ""},
		"named and true": {func(p *corev1.Pod) { p.Spec.PriorityClassName = "high"; p.Spec.Priority = new(int32(1000)) }, 1000, ""},
		"unknown":        {func(p *corev1.Pod) { p.Spec.PriorityClassName = "x" }, 0, "no PriorityClass with name x was found"},
		"number":         {func(p *corev1.Pod) { p.Spec.Priority = new(int32(7)) }, 0, "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 10 from the given PriorityClass name"},
		"policy":         {func(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptLowerPriority) }, 0, "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided"},
	} {
		p := pod(c.change)
		err := w.admit(t, request{op: admission.Create, object: p, resource: "pods"})
		if c.refused == "" && (err != nil || *p.Spec.Priority != c.value || *p.Spec.PreemptionPolicy != corev1.PreemptNever) || c.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v %v", name, err, p.Spec.Priority)
		}
	}
	if err := w.admit(t, request{op: admission.Create, object: class("second", 5, true), resource: "scheduling.k8s.io|priorityclasses"}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PriorityClass usual is already marked as default. Only one default can exist") {
		t.Errorf("second default: %v", err)
	}
	if err := EnsureSystemPriorityClasses(t.Context(), w.k); err != nil {
		t.Fatal(err)
	}
	if c, err := w.k.SchedulingV1().PriorityClasses().Get(t.Context(), "system-node-critical", metav1.GetOptions{}); err != nil || c.Value != 2000001000 {
		t.Errorf("%v %v", c, err)
	}
}

func TestRuntimeClassAndLimits(t *testing.T) {
	heavy := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"memory": resource.MustParse("100Mi")}},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"kvm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}}
	limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer,
		Default: corev1.ResourceList{"cpu": resource.MustParse("2")}, DefaultRequest: corev1.ResourceList{"cpu": resource.MustParse("1")}, Max: corev1.ResourceList{"cpu": resource.MustParse("4")}, Min: corev1.ResourceList{"cpu": resource.MustParse("500m")}}}}}
	w := newWorld(t, grants{}, account(nil), heavy, limits)
	p := pod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("vm") })
	if err := w.admit(t, request{op: admission.Create, object: p, resource: "pods"}); err != nil {
		t.Fatal(err)
	}
	if q := p.Spec.Overhead["memory"]; q.String() != "100Mi" || p.Spec.NodeSelector["kvm"] != "yes" || p.Spec.Tolerations[len(p.Spec.Tolerations)-1].Key != "vm" {
		t.Errorf("pod %+v", p.Spec)
	}
	if q := p.Spec.Containers[0].Resources.Requests["cpu"]; q.String() != "1" || p.Annotations[defaultedBy] != "LimitRanger plugin set: cpu request for container c; cpu limit for container c" {
		t.Errorf("resources %v, %v", p.Spec.Containers[0].Resources, p.Annotations)
	}
	for want, change := range map[string]func(*corev1.Pod){
		`RuntimeClass "x" not found`: func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("x") },
		"conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes": func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = new("vm")
			p.Spec.NodeSelector = map[string]string{"kvm": "no"}
		},
		"maximum cpu usage per Container is 4, but limit is 5": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("5")}
		},
		"minimum cpu usage per Container is 500m, but request is 1m": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1m")}
		},
		"Pod's Overhead doesn't match RuntimeClass's defined Overhead": func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = new("vm")
			p.Spec.Overhead = corev1.ResourceList{"memory": resource.MustParse("1Mi")}
		},
	} {
		if err := w.admit(t, request{op: admission.Create, object: pod(change), resource: "pods"}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestPodSecurity(t *testing.T) {
	w := newWorld(t, grants{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "strict", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "strict", Name: "default"}}, account(nil))
	privileged := func(namespace string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Namespace = namespace
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true)}
		})
	}
	if err := w.admit(t, request{op: admission.Create, object: privileged("ns"), resource: "pods"}); err != nil {
		t.Errorf("without labels: %v", err)
	}
	if err := w.admit(t, request{op: admission.Create, object: privileged("strict"), resource: "pods"}); !apierrors.IsForbidden(err) ||
		err.Error() != `pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)` {
		t.Errorf("privileged: %v", err)
	}
}

func csr(t testing.TB, signer, commonName string, organizations ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName, Organization: organizations}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr"}, Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer,
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
}

func TestCertificates(t *testing.T) {
	w := newWorld(t, grants{allowed: map[string]bool{"boss approve signers kubernetes.io/kubelet-serving": true, "boss sign signers example.com/*": true}})
	const csrs = "certificates.k8s.io|certificatesigningrequests"
	boss := &user.DefaultInfo{Name: "boss"}
	signed := csr(t, "example.com/x", "a")
	signed.Status.Certificate = []byte("x")
	for name, c := range map[string]struct {
		r       request
		refused string
	}{
		"approve":           {request{op: admission.Update, object: csr(t, "kubernetes.io/kubelet-serving", "a"), resource: csrs + "/approval", user: boss}, ""},
		"approve, not mine": {request{op: admission.Update, object: csr(t, "kubernetes.io/kube-apiserver-client", "a"), resource: csrs + "/approval", user: boss}, `user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`},
		"sign by domain":    {request{op: admission.Update, object: signed, old: csr(t, "example.com/x", "a"), resource: csrs + "/status", user: boss}, ""},
		"sign, not mine":    {request{op: admission.Update, object: signed, old: csr(t, "example.com/x", "a"), resource: csrs + "/status"}, `user not permitted to sign requests with signerName "example.com/x"`},
		"touch only":        {request{op: admission.Update, object: signed, old: signed, resource: csrs + "/status"}, ""},
		"become master":     {request{op: admission.Create, object: csr(t, "kubernetes.io/kube-apiserver-client", "a", "system:masters"), resource: csrs}, "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		"become somebody":   {request{op: admission.Create, object: csr(t, "kubernetes.io/kube-apiserver-client", "a", "devs"), resource: csrs}, ""},
	} {
		if err := w.admit(t, c.r); c.refused == "" && err != nil || c.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNodeRestriction(t *testing.T) {
	own := pod(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "own", "u", "n1" })
	other := pod(func(p *corev1.Pod) { p.Name, p.UID, p.Spec.NodeName = "other", "u", "n2" })
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "nu", Labels: map[string]string{"a": "b"}}}
	w := newWorld(t, grants{}, own, other, object, account(nil))
	node := func(change func(*corev1.Node)) *corev1.Node { n := object.DeepCopy(); change(n); return n }
	token := func(ref *authenticationv1.BoundObjectReference) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}, Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}
	}
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.NodeName = "n1"
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "nu", Controller: new(true)}}
			if change != nil {
				change(p)
			}
		})
	}
	for _, ns := range []string{"kube-node-lease", "wherry-system", "kube-system"} {
		if _, err := w.k.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const serving = "kubernetes.io/kubelet-serving"
	who := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
	for name, c := range map[string]struct {
		r       request
		refused string
	}{
		"own status":        {request{op: admission.Update, object: own, old: own, resource: "pods/status"}, ""},
		"other's status":    {request{op: admission.Update, object: other, old: other, resource: "pods/status"}, `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		"labels by status":  {request{op: admission.Update, object: pod(func(p *corev1.Pod) { p.Spec.NodeName = "n1"; p.Labels = map[string]string{"app": "x"} }), old: own, resource: "pods/status"}, "cannot update labels through pod status"},
		"delete own":        {request{op: admission.Delete, old: own, resource: "pods"}, ""},
		"delete other's":    {request{op: admission.Delete, old: other, resource: "pods"}, "can only delete pods with spec.nodeName set to itself"},
		"plain pod":         {request{op: admission.Create, object: pod(func(p *corev1.Pod) { p.Spec.NodeName = "n1" }), resource: "pods"}, "can only create mirror pods"},
		"mirror pod":        {request{op: admission.Create, object: mirror(nil), resource: "pods"}, ""},
		"mirror, ownerless": {request{op: admission.Create, object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil }), resource: "pods"}, "single owner reference"},
		"mirror, wrong uid": {request{op: admission.Create, object: mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" }), resource: "pods"}, "UID mismatch"},
		"mirror, configmap": {request{op: admission.Create, object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}}}
		}), resource: "pods"}, "can not create pods that reference configmaps"},
		"own node":          {request{op: admission.Update, object: node(func(n *corev1.Node) { n.Labels["topology.kubernetes.io/zone"] = "z"; n.Labels["mine"] = "x" }), old: object, resource: "nodes"}, ""},
		"forbidden label":   {request{op: admission.Update, object: node(func(n *corev1.Node) { n.Labels["node-restriction.kubernetes.io/trusted"] = "yes" }), old: object, resource: "nodes"}, "is not allowed to modify labels: node-restriction.kubernetes.io/trusted"},
		"role label":        {request{op: admission.Create, object: node(func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" }), resource: "nodes"}, "is not allowed to set the following labels: node-role.kubernetes.io/control-plane"},
		"taints":            {request{op: admission.Update, object: node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} }), old: object, resource: "nodes"}, "is not allowed to modify taints"},
		"other node":        {request{op: admission.Update, object: node(func(n *corev1.Node) { n.Name = "n2" }), old: object, name: "n2", resource: "nodes/status"}, `is not allowed to modify node "n2"`},
		"token of own pod":  {request{op: admission.Create, object: token(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "own", UID: "u"}), resource: "serviceaccounts/token"}, ""},
		"token of other":    {request{op: admission.Create, object: token(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "other", UID: "u"}), resource: "serviceaccounts/token"}, "bound to a pod scheduled on a different node"},
		"token unbound":     {request{op: admission.Create, object: token(nil), resource: "serviceaccounts/token"}, "not bound to a pod"},
		"own heartbeat":     {request{op: admission.Create, object: lease("kube-node-lease", "n1"), resource: "coordination.k8s.io|leases"}, ""},
		"other's heartbeat": {request{op: admission.Create, object: lease("kube-node-lease", "n2"), resource: "coordination.k8s.io|leases"}, "same name as the requesting node"},
		"acknowledgement":   {request{op: admission.Create, object: lease("wherry-system", "endpoints-n1"), resource: "coordination.k8s.io|leases"}, ""},
		"other's ack":       {request{op: admission.Create, object: lease("wherry-system", "endpoints-n2"), resource: "coordination.k8s.io|leases"}, "same name as the requesting node"},
		"lock":              {request{op: admission.Create, object: lease("kube-system", "n1"), resource: "coordination.k8s.io|leases"}, `can only access leases in the "kube-node-lease" system namespace`},
		"own certificate":   {request{op: admission.Create, object: csr(t, serving, "system:node:n1", "system:nodes"), resource: "certificates.k8s.io|certificatesigningrequests"}, ""},
		"other's":           {request{op: admission.Create, object: csr(t, serving, "system:node:n2", "system:nodes"), resource: "certificates.k8s.io|certificatesigningrequests"}, "can only create a node CSR with CN=system:node:n1"},
	} {
		t.Run(name, func(t *testing.T) {
			c.r.user = who
			if err := w.admit(t, c.r); c.refused == "" && err != nil || c.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("%v, want %q", err, c.refused)
			}
		})
	}
}

// A kubelet hears of a binding as soon as it is stored, which may be before the admission plugins' cache does.
func TestNodeKnowsOfABindingFirst(t *testing.T) {
	w := newWorld(t, grants{}, account(nil), pod(func(p *corev1.Pod) { p.UID = "u" }))
	stored := pod(func(p *corev1.Pod) { p.UID, p.Spec.NodeName = "u", "n1" })
	w.k.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, stored, nil })
	ask := func(node string) error {
		return w.admit(t, request{op: admission.Create, resource: "serviceaccounts/token", user: &user.DefaultInfo{Name: "system:node:" + node, Groups: []string{"system:nodes"}},
			object: &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "default"}, Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}}})
	}
	if err := ask("n1"); err != nil {
		t.Errorf("the pod's node: %v", err)
	}
	if err := ask("n2"); !apierrors.IsForbidden(err) {
		t.Errorf("another node: %v, want forbidden", err)
	}
}

func TestNewNodeIsTainted(t *testing.T) {
	w := newWorld(t, grants{})
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	for range 2 {
		if err := w.admit(t, request{op: admission.Create, object: n, resource: "nodes"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "node.kubernetes.io/not-ready" || n.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
		t.Errorf("taints %v", n.Spec.Taints)
	}
}

func TestEscalation(t *testing.T) {
	readPods := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	writePods := rbacv1.PolicyRule{Verbs: []string{"create", "delete"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	g := grants{
		allowed: map[string]bool{"binder bind clusterroles admin": true, "lord escalate roles r": true},
		rules:   map[string][]rbacv1.PolicyRule{"jane": {readPods}},
		roles:   map[string][]rbacv1.PolicyRule{"admin": {readPods, writePods}, "ns/reader": {readPods}},
	}
	w := newWorld(t, g)
	role := func(rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Rules: rules}
	}
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}}
	}
	const roles, bindings, clusterRoles = "rbac.authorization.k8s.io|roles", "rbac.authorization.k8s.io|rolebindings", "rbac.authorization.k8s.io|clusterroles"
	named := func(name string, groups ...string) user.Info { return &user.DefaultInfo{Name: name, Groups: groups} }
	relabeled := role(readPods, writePods)
	relabeled.Labels = map[string]string{"a": "b"}
	for name, c := range map[string]struct {
		r       request
		refused string
	}{
		"what I have":      {request{op: admission.Create, object: role(readPods), resource: roles}, ""},
		"more than I have": {request{op: admission.Create, object: role(readPods, writePods), resource: roles, user: named("jane", "devs")}, `roles.rbac.authorization.k8s.io "r" is forbidden: user "jane" (groups=["devs"]) is attempting to grant RBAC permissions not currently held:` + "\n" + `{APIGroups:[""], Resources:["pods"], Verbs:["create", "delete"]}`},
		"rules unchanged":  {request{op: admission.Update, object: relabeled, old: role(readPods, writePods), resource: roles}, ""},
		"may escalate":     {request{op: admission.Create, object: role(writePods), resource: roles, user: named("lord")}, ""},
		"master":           {request{op: admission.Create, object: role(writePods), resource: roles, user: named("x", "system:masters")}, ""},
		"bind what I have": {request{op: admission.Create, object: binding("Role", "reader"), resource: bindings}, ""},
		"bind more":        {request{op: admission.Create, object: binding("ClusterRole", "admin"), resource: bindings}, "is attempting to grant RBAC permissions not currently held"},
		"may bind":         {request{op: admission.Create, object: binding("ClusterRole", "admin"), resource: bindings, user: named("binder")}, ""},
		"aggregate": {request{op: admission.Create, object: &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}}, resource: clusterRoles},
			"must have cluster-admin privileges to use the aggregationRule"},
	} {
		if err := w.admit(t, c.r); c.refused == "" && err != nil || c.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.admit(t, request{op: admission.Create, object: binding("ClusterRole", "gone"), resource: bindings}); !apierrors.IsNotFound(err) {
		t.Errorf("a role that is not there: %v", err)
	}
}

func BenchmarkAdmitPod(b *testing.B) {
	w := newWorld(b, grants{}, account(nil))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.admit(b, request{op: admission.Create, object: pod(nil), resource: "pods"}); err != nil {
			b.Fatal(err)
		}
	}
}
