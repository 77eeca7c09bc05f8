package security

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func rule(groups, resources, verbs []string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: groups, Resources: resources, Verbs: verbs, ResourceNames: names}
}

// grant makes a service account whose rights are exactly these, in every namespace, and returns it as a client.
func (w *target) grant(t *testing.T, name string, rules ...rbacv1.PolicyRule) kubernetes.Interface {
	t.Helper()
	w.account(t, "escalation", name)
	if _, err := w.admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "escalation", Name: name}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w.client(t, bearer(w.issue(t, "escalation", name, authenticationv1.TokenRequestSpec{})))
}

// attempt is one way to more rights. It returns what the server said.
type attempt struct {
	name string
	try  func(context.Context) error
	may  bool // it is no escalation: the control that shows that the refusals have their reason
}

func run(t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		err := a.try(t.Context())
		for a.may && apierrors.IsForbidden(err) && t.Context().Err() == nil { // bindings arrive a moment after they are written
			err = a.try(t.Context())
		}
		switch {
		case a.may && err != nil:
			t.Errorf("%s: %v", a.name, err)
		case !a.may && !apierrors.IsForbidden(err):
			t.Errorf("%s: %v, want a refusal", a.name, err)
		}
	}
}

// Whoever may write roles and bindings grants nobody what they do not have, themselves included.
func TestNobodyGrantsWhatTheyDoNotHave(t *testing.T) {
	w := start(t, nil)
	all := []string{"*"}
	rbac := []string{rbacv1.GroupName}
	roles := []string{"roles", "clusterroles", "rolebindings", "clusterrolebindings"}
	writer := w.grant(t, "writer", rule(rbac, roles, []string{"create", "update", "patch", "delete", "get"}), rule([]string{""}, []string{"configmaps"}, []string{"get"}))
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	me := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "escalation", Name: "writer"}}
	toAdmin := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
	run(t, []attempt{
		{"a role of what it has", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Create(ctx, role("fine", rule([]string{""}, []string{"configmaps"}, []string{"get"})), metav1.CreateOptions{})
			return err
		}, true},
		{"a role of everything", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Create(ctx, role("much", rule(all, all, all)), metav1.CreateOptions{})
			return err
		}, false},
		{"a role of one secret", func(ctx context.Context) error {
			_, err := writer.RbacV1().Roles("kube-system").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Rules: []rbacv1.PolicyRule{rule([]string{""}, []string{"secrets"}, []string{"get"}, "one")}}, metav1.CreateOptions{})
			return err
		}, false},
		{"a role of paths", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Create(ctx, role("paths", rbacv1.PolicyRule{NonResourceURLs: []string{"*"}, Verbs: all}), metav1.CreateOptions{})
			return err
		}, false},
		{"a verb more on what it has", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Create(ctx, role("verb", rule([]string{""}, []string{"configmaps"}, []string{"get", "delete"})), metav1.CreateOptions{})
			return err
		}, false},
		{"its own role, more", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Patch(ctx, "writer", types.JSONPatchType, []byte(`[{"op":"add","path":"/rules/-","value":{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}}]`), metav1.PatchOptions{})
			return err
		}, false},
		{"its own role, applied", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoles().Patch(ctx, "writer", types.ApplyPatchType, []byte(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`), metav1.PatchOptions{FieldManager: "m", Force: new(true)})
			return err
		}, false},
		{"an aggregated role", func(ctx context.Context) error {
			r := role("gather")
			r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
			_, err := writer.RbacV1().ClusterRoles().Create(ctx, r, metav1.CreateOptions{})
			return err
		}, false},
		{"a binding to the administrator's role", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "up"}, RoleRef: toAdmin, Subjects: me}, metav1.CreateOptions{})
			return err
		}, false},
		{"the same in a namespace", func(ctx context.Context) error {
			_, err := writer.RbacV1().RoleBindings("kube-system").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "up"}, RoleRef: toAdmin, Subjects: me}, metav1.CreateOptions{})
			return err
		}, false},
		{"a place in the administrators' binding", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoleBindings().Patch(ctx, "cluster-admin", types.JSONPatchType, []byte(`[{"op":"add","path":"/subjects/-","value":{"kind":"ServiceAccount","namespace":"escalation","name":"writer"}}]`), metav1.PatchOptions{})
			return err
		}, false},
		{"a dry run of it", func(ctx context.Context) error {
			_, err := writer.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "up"}, RoleRef: toAdmin, Subjects: me}, metav1.CreateOptions{DryRun: []string{"All"}})
			return err
		}, false},
	})
	// The two verbs that upstream has for those who may.
	escalator := w.grant(t, "escalator", rule(rbac, roles, []string{"create"}), rule(rbac, []string{"clusterroles"}, []string{"escalate"}))
	binder := w.grant(t, "binder", rule(rbac, roles, []string{"create"}), rule(rbac, []string{"clusterroles"}, []string{"bind"}, "view"))
	binding := func(k kubernetes.Interface, name, to string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := k.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: to}, Subjects: me}, metav1.CreateOptions{})
			return err
		}
	}
	run(t, []attempt{
		{"escalate", func(ctx context.Context) error {
			_, err := escalator.RbacV1().ClusterRoles().Create(ctx, role("escalated", rule(all, all, all)), metav1.CreateOptions{})
			return err
		}, true},
		{"escalate does not bind", binding(escalator, "e", "cluster-admin"), false},
		{"bind", binding(binder, "b1", "view"), true},
		{"bind by name only", binding(binder, "b2", "system:kube-scheduler"), false}, // no aggregated role: those are empty for a moment after the first start
		{"bind does not escalate", func(ctx context.Context) error {
			_, err := binder.RbacV1().ClusterRoles().Create(ctx, role("bound", rule(all, all, all)), metav1.CreateOptions{})
			return err
		}, false},
	})
}

// Whoever may ask for certificates or approve them gets none that makes them somebody else; whoever may create pods gets no mirror of
// another's secrets beyond the namespace; whoever may impersonate one user is not another.
func TestNobodyBecomesSomebodyElse(t *testing.T) {
	w := start(t, nil)
	csrs := []string{"certificates.k8s.io"}
	asker := w.grant(t, "asker", rule(csrs, []string{"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"}, []string{"create", "get", "list", "update", "patch"}))
	request := func(name, signer string, subject pkix.Name) *certificatesv1.CertificateSigningRequest {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Username: "admin", Groups: []string{"system:masters"},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	}
	node := pkix.Name{CommonName: "system:node:n9", Organization: []string{"system:nodes"}}
	var mine *certificatesv1.CertificateSigningRequest
	run(t, []attempt{
		{"a request", func(ctx context.Context) (err error) {
			mine, err = asker.CertificatesV1().CertificateSigningRequests().Create(ctx, request("mine", certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "x"}), metav1.CreateOptions{})
			return err
		}, true},
		{"a request for the administrators' group", func(ctx context.Context) error {
			_, err := asker.CertificatesV1().CertificateSigningRequests().Create(ctx, request("masters", certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}), metav1.CreateOptions{})
			return err
		}, false},
		{"an approval without the signer's leave", func(ctx context.Context) error {
			c := mine.DeepCopy()
			c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "r"}}
			_, err := asker.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, "mine", c, metav1.UpdateOptions{})
			return err
		}, false},
		{"a certificate without the signer's leave", func(ctx context.Context) error {
			c := mine.DeepCopy()
			c.Status.Certificate = w.keys.Pairs().Admin.CertPEM
			_, err := asker.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, c, metav1.UpdateOptions{})
			return err
		}, false},
	})
	if mine.Spec.Username != "system:serviceaccount:escalation:asker" || mine.Spec.Groups[0] == "system:masters" {
		t.Errorf("the request says it is from %s %v", mine.Spec.Username, mine.Spec.Groups)
	}
	// A request for a node's certificate by somebody who is no node and has no join token stays unanswered: the controller looks at
	// those of the joining only.
	if _, err := asker.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request("node", certificatesv1.KubeAPIServerClientKubeletSignerName, node), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The controller has seen it once it has answered a later one, of somebody who may.
	joining := w.client(t, bearer(w.token))
	if _, err := joining.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request("joining", certificatesv1.KubeAPIServerClientKubeletSignerName, node), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := w.admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "joining", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Status.Certificate) > 0 {
			break
		}
	}
	if c, err := w.admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "node", metav1.GetOptions{}); err != nil || len(c.Status.Certificate) > 0 || len(c.Status.Conditions) > 0 {
		t.Errorf("somebody who is no node has a node's certificate: %+v %v", c.Status, err)
	}

	// Tokens of other accounts.
	w.account(t, "escalation", "rich")
	maker := w.grant(t, "maker", rule([]string{""}, []string{"serviceaccounts"}, []string{"create", "get"}), rule([]string{""}, []string{"serviceaccounts/token"}, []string{"create"}, "maker"))
	token := func(namespace, name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := maker.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}
	}
	run(t, []attempt{{"its own token", token("escalation", "maker"), true}, {"another's token", token("escalation", "rich"), false}, {"a controller's token", token("kube-system", "namespace-controller"), false}})

	// Impersonation, part by part.
	actor := rule([]string{""}, []string{"users"}, []string{"impersonate"}, "jane")
	actors := rule([]string{""}, []string{"groups"}, []string{"impersonate"}, "devs")
	extras := rule([]string{"authentication.k8s.io"}, []string{"userextras/scopes"}, []string{"impersonate"}, "view")
	uids := rule([]string{"authentication.k8s.io"}, []string{"uids"}, []string{"impersonate"}, "7")
	w.grant(t, "actor", actor, actors, extras, uids)
	secret := w.issue(t, "escalation", "actor", authenticationv1.TokenRequestSpec{})
	as := func(c rest.ImpersonationConfig) func(context.Context) error {
		k := w.client(t, func(r *rest.Config) { r.BearerToken, r.Impersonate = secret, c })
		return func(ctx context.Context) error {
			_, err := k.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return err
		}
	}
	run(t, []attempt{
		{"as jane", as(rest.ImpersonationConfig{UserName: "jane"}), true},
		{"as jane of the developers", as(rest.ImpersonationConfig{UserName: "jane", Groups: []string{"devs"}}), true},
		{"as jane with her uid and scope", as(rest.ImpersonationConfig{UserName: "jane", UID: "7", Extra: map[string][]string{"scopes": {"view"}}}), true},
		{"as joe", as(rest.ImpersonationConfig{UserName: "joe"}), false},
		{"as jane of the administrators", as(rest.ImpersonationConfig{UserName: "jane", Groups: []string{"devs", "system:masters"}}), false},
		{"as jane with another uid", as(rest.ImpersonationConfig{UserName: "jane", UID: "8"}), false},
		{"as jane with another scope", as(rest.ImpersonationConfig{UserName: "jane", Extra: map[string][]string{"scopes": {"view", "admin"}}}), false},
		{"as jane with something else", as(rest.ImpersonationConfig{UserName: "jane", Extra: map[string][]string{"other": {"view"}}}), false},
		{"as an account", as(rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:namespace-controller"}), false},
	})
}
