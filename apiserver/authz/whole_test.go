package authz_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/apiserver"
	"wherry.dev/wherry/apiserver/admission"
	"wherry.dev/wherry/apiserver/authn"
	"wherry.dev/wherry/apiserver/authz"
	"wherry.dev/wherry/apiserver/authz/policy"
	"wherry.dev/wherry/apiserver/reviews"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/controllers/bootstraptoken"
	"wherry.dev/wherry/controllers/certificates"
	"wherry.dev/wherry/controllers/clusterroleaggregation"
	"wherry.dev/wherry/controllers/serviceaccount"
	"wherry.dev/wherry/embedded/etcd"
	"wherry.dev/wherry/pki"
	"wherry.dev/wherry/store"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

// cluster is an API server over a real store, with every part of identity in its place, reached over TLS.
type cluster struct {
	url     string
	keys    *pki.PKI
	masters *client.Set
	seeded  time.Duration // what the default policy took
}

func start(t testing.TB) *cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	run := func(f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	must(err)
	t.Cleanup(func() { e.Close() })
	st := store.Open(store.Config{Client: e.Client(), SoleWriter: true, DetectMutations: func(what string) { t.Errorf("a shared object was changed: %s", what) }})
	t.Cleanup(st.Close)
	t.Cleanup(func() { cancel(); running.Wait() }) // first of all: cleanups run backwards

	keys, err := pki.Ensure(t.TempDir(), pki.Config{})
	must(err)
	lookup, signer := &authn.Lookup{}, keys.ServiceAccountSigner()
	accounts, err := authn.NewServiceAccounts(authn.ServiceAccountConfig{Issuers: []string{issuerURL}, Audiences: []string{issuerURL}, Keys: []crypto.PublicKey{signer.Public()}, Lookup: lookup})
	must(err)
	issuer, err := authn.NewIssuer(authn.IssuerConfig{URL: issuerURL, Audiences: []string{issuerURL}, Key: signer, Lookup: lookup})
	must(err)
	authenticator, err := authn.New(authn.Config{ClientCAs: keys.CAPool, ServiceAccounts: accounts, BootstrapTokens: lookup, Anonymous: authn.Anonymous{Paths: authn.AnonymousPaths()}})
	must(err)
	authorizer := authz.New(authz.Config{})
	plugins, err := admission.New(admission.Config{Authorizer: authorizer, Rules: authorizer})
	must(err)
	server, err := apiserver.New(apiserver.Config{Kinds: kinds.All(), Storage: apiserver.Storage(st), Authenticator: authenticator, Authorizer: authorizer, Admission: plugins.Plugins(), Issuer: issuer,
		Answers: reviews.New(reviews.Config{Tokens: authenticator.Token(), Authorizer: authorizer, Rules: authorizer, Audiences: []string{issuerURL}}), TLS: keys.ServerTLS()})
	must(err)
	discovery, err := accounts.OpenIDHandlers("https://127.0.0.1")
	must(err)
	for path, h := range discovery {
		server.Handle(path, h)
	}
	c := &cluster{keys: keys, masters: server.InProcess(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})}
	lookup.Initialize(c.masters)
	must(authorizer.Initialize(ctx, c.masters))
	must(plugins.Initialize(ctx, c.masters))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	c.url = "https://" + l.Addr().String()
	run(func() error { return server.Serve(ctx, l) })
	ready := make(chan struct{})
	run(func() error { return server.Run(ctx, func() { close(ready) }) })
	c.masters.Informers.Start(ctx.Done())
	<-ready
	began := time.Now()
	must(policy.Reconcile(ctx, c.masters.Kubernetes, policy.Default()))
	c.seeded = time.Since(began)
	as := func(name string) *client.Set {
		set := server.InProcess(policy.ControllerUser(name))
		set.Informers = c.masters.Informers
		return set
	}
	pairs := keys.Pairs()
	run(func() error {
		return certificates.Run(ctx, certificates.Config{Client: as("certificate-controller"), CA: pairs.CA.Certificate, Key: pairs.CA.Key})
	})
	furnished := make(chan struct{})
	run(func() error {
		return serviceaccount.Run(ctx, serviceaccount.Config{Client: as("service-account-controller"), RootCA: pairs.CA.CertPEM, Tokens: issuer, Ready: func() { close(furnished) }})
	})
	run(func() error {
		return clusterroleaggregation.Run(ctx, clusterroleaggregation.Config{Client: as("clusterrole-aggregation-controller")})
	})
	run(func() error {
		return bootstraptoken.Run(ctx, bootstraptoken.Config{Client: as("bootstrap-signer")})
	})
	<-furnished
	return c
}

// client returns a client over TLS; change adds the credential.
func (c *cluster) client(t testing.TB, change func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	config := &rest.Config{Host: c.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.Pairs().CA.CertPEM}}
	if change != nil {
		change(config)
	}
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func token(bearer string) func(*rest.Config) { return func(c *rest.Config) { c.BearerToken = bearer } }

func pair(cert, key []byte) func(*rest.Config) {
	return func(c *rest.Config) { c.CertData, c.KeyData = cert, key }
}

func eventually(t testing.TB, what string, condition func(context.Context) bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) { return condition(ctx), nil }); err != nil {
		t.Fatalf("never: %s", what)
	}
}

// certify asks for a certificate and waits for it.
func certify(t testing.TB, k kubernetes.Interface, name, signer string, usage certificatesv1.KeyUsage, template *x509.CertificateRequest) (cert, keyPEM []byte, took time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := k.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "certificate "+name, func(ctx context.Context) bool {
		csr, err := k.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cert = csr.Status.Certificate
		return len(cert) > 0
	})
	took = time.Since(began)
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec}), took
}

// A node joins by a token, gets its certificates, runs a pod, and sees what that pod needs and nothing else; the pod's
// token works for as long as the pod is there.
func TestNodeJoinsAndPodsTokenWorks(t *testing.T) {
	c, ctx := start(t), t.Context()
	admin := c.client(t, pair(c.keys.Pairs().Admin.CertPEM, c.keys.Pairs().Admin.KeyPEM))
	t.Logf("default policy written in %v", c.seeded)

	// The administrator makes a join token and the public half.
	join := pki.NewBootstrapToken()
	secret, err := pki.BootstrapTokenSecret(join, "", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	info, err := c.keys.ClusterInfo(c.url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ConfigMaps(info.Namespace).Create(ctx, info, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "cluster-info is signed with the token", func(ctx context.Context) bool {
		ca, err := pki.Discover(ctx, c.url, join, []string{pki.CAPin(c.keys.Pairs().CA.Certificate)})
		return err == nil && string(ca) == string(c.keys.Pairs().CA.CertPEM)
	})

	// The node asks for its client certificate with the token, and may do nothing else with it.
	joining := c.client(t, token(join))
	if _, err := joining.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a join token lists secrets: %v", err)
	}
	subject := pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	cert, key, took := certify(t, joining, "join", certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth, &x509.CertificateRequest{Subject: subject})
	t.Logf("certificate after %v", took)
	node := c.client(t, pair(cert, key))
	object, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(object.Spec.Taints) != 1 || object.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("taints %v", object.Spec.Taints)
	}
	if _, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node makes another: %v", err)
	}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.9.8.7"}}
	if _, err := node.CoreV1().Nodes().UpdateStatus(ctx, object, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	certify(t, node, "serving", certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, &x509.CertificateRequest{Subject: subject, IPAddresses: []net.IP{net.IPv4(10, 9, 8, 7)}})
	for name, want := range map[string]bool{"endpoints-n1": true, "endpoints-n2": false} {
		_, err := node.CoordinationV1().Leases("wherry-system").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if (err == nil) != want || !want && !apierrors.IsForbidden(err) {
			t.Errorf("lease %s: %v", name, err)
		}
	}

	// A namespace and at once a pod in it: the account is there when the pod needs it.
	if _, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	pod, err := admin.CoreV1().Pods("team").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i",
		EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "needed"}}}}}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first pod of a new namespace after %v", time.Since(began))
	if pod.Spec.ServiceAccountName != "default" || !strings.HasPrefix(pod.Spec.Volumes[0].Name, "kube-api-access-") {
		t.Errorf("pod %+v", pod.Spec)
	}
	for _, name := range []string{"needed", "other"} {
		if _, err := admin.CoreV1().Secrets("team").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the node reads its pod's secret", func(ctx context.Context) bool {
		_, err := node.CoreV1().Secrets("team").Get(ctx, "needed", metav1.GetOptions{})
		return err == nil
	})
	if _, err := node.CoreV1().Secrets("team").Get(ctx, "other", metav1.GetOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `secrets "other" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "team": node: no relationship found between node 'n1' and this object`) {
		t.Errorf("another secret: %v", err)
	}
	if _, err := node.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}); err != nil {
		t.Errorf("its pods: %v", err)
	}
	if _, err := node.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all pods: %v", err)
	}
	ca, err := node.CoreV1().ConfigMaps("team").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil || ca.Data["ca.crt"] != string(c.keys.Pairs().CA.CertPEM) {
		t.Errorf("root CA: %v", err)
	}

	// The kubelet asks for the pod's token; the pod uses it.
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(3607)), BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID}}}
	issued, err := node.CoreV1().ServiceAccounts("team").CreateToken(ctx, "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.CoreV1().ServiceAccounts("team").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node gets a token that is bound to no pod: %v", err)
	}
	inside := c.client(t, token(issued.Status.Token))
	self, err := inside.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "system:serviceaccount:team:default" || self.Status.UserInfo.Extra["authentication.kubernetes.io/node-name"][0] != "n1" {
		t.Fatalf("%+v %v", self, err)
	}
	if _, err := inside.CoreV1().Pods("team").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("before a role: %v", err)
	}
	if _, err := admin.RbacV1().RoleBindings("team").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "view"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "team", Name: "default"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the aggregated role view counts", func(ctx context.Context) bool {
		_, err := inside.CoreV1().Pods("team").List(ctx, metav1.ListOptions{})
		return err == nil
	})
	can, err := inside.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "team", Verb: "list", Resource: "pods"}}}, metav1.CreateOptions{})
	if err != nil || !can.Status.Allowed || can.Status.Reason != `RBAC: allowed by RoleBinding "view/team" of ClusterRole "view" to ServiceAccount "default/team"` {
		t.Errorf("%+v %v", can, err)
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: issued.Status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:team:default" {
		t.Errorf("%+v %v", review, err)
	}
	if err := admin.CoreV1().Pods("team").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token dies with its pod", func(ctx context.Context) bool {
		_, err := inside.CoreV1().Pods("team").List(ctx, metav1.ListOptions{})
		return apierrors.IsUnauthorized(err)
	})
}

func TestNobodyGetsMoreThanGiven(t *testing.T) {
	c, ctx := start(t), t.Context()
	admin := c.client(t, pair(c.keys.Pairs().Admin.CertPEM, c.keys.Pairs().Admin.KeyPEM))
	nobody := c.client(t, nil)
	if _, err := nobody.CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("without a credential: %v", err)
	}
	for path, want := range map[string]bool{"/healthz": true, "/readyz": true, "/version": true, "/api": false, "/metrics": false, "/openid/v1/jwks": false} {
		err := nobody.CoreV1().RESTClient().Get().AbsPath(path).Do(ctx).Error()
		if (err == nil) != want {
			t.Errorf("anonymous %s: %v", path, err)
		}
	}
	if _, err := c.client(t, token("wrong")).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a wrong token: %v", err)
	}
	// jane administers one namespace.
	jane := c.client(t, func(r *rest.Config) {
		pair(c.keys.Pairs().Admin.CertPEM, c.keys.Pairs().Admin.KeyPEM)(r)
		r.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"devs"}}
	})
	if _, err := admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bind := func(name, role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}}}
	}
	if _, err := admin.RbacV1().RoleBindings("team").Create(ctx, bind("jane", "admin"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "jane administers", func(ctx context.Context) bool {
		_, err := jane.CoreV1().ConfigMaps("team").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{})
		return err == nil
	})
	if _, err := jane.RbacV1().RoleBindings("team").Create(ctx, bind("edit", "edit"), metav1.CreateOptions{}); err != nil {
		t.Errorf("she may pass on what she has: %v", err)
	}
	if _, err := jane.RbacV1().RoleBindings("team").Create(ctx, bind("all", "cluster-admin"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `user "jane" (groups=["devs" "system:authenticated"]) is attempting to grant RBAC permissions not currently held`) {
		t.Errorf("she takes everything: %v", err)
	}
	if _, err := jane.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) || err.Error() != `secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "kube-system"` {
		t.Errorf("another namespace: %v", err)
	}
	impersonating := c.client(t, func(r *rest.Config) {
		pair(c.keys.Pairs().Scheduler.CertPEM, c.keys.Pairs().Scheduler.KeyPEM)(r)
		r.Impersonate = rest.ImpersonationConfig{UserName: "system:admin", Groups: []string{"system:masters"}}
	})
	if _, err := impersonating.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler impersonates: %v", err)
	}
	if _, err := admin.CoreV1().Secrets("team").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "long", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}, Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	expired, err := pki.BootstrapTokenSecret(pki.NewBootstrapToken(), "", time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().Secrets(expired.Namespace).Create(ctx, expired, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an expired join token is gone", func(ctx context.Context) bool {
		_, err := admin.CoreV1().Secrets(expired.Namespace).Get(ctx, expired.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := admin.CoreV1().Secrets("team").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Annotations: map[string]string{corev1.ServiceAccountNameKey: "nobody"}}, Type: corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a token secret without its account is gone", func(ctx context.Context) bool {
		_, err := admin.CoreV1().Secrets("team").Get(ctx, "orphan", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	eventually(t, "a token secret is filled and its token works", func(ctx context.Context) bool {
		s, err := admin.CoreV1().Secrets("team").Get(ctx, "long", metav1.GetOptions{})
		if err != nil || len(s.Data["token"]) == 0 {
			return false
		}
		_, err = c.client(t, token(string(s.Data["token"]))).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil
	})
}
