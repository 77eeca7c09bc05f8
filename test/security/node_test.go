package security

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// node is a client with a node's certificate.
func (w *target) node(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	cert := certificate(t, w.keys.Pairs().CA, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
	})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return w.client(t, func(c *rest.Config) {
		c.CertData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
		c.KeyData = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	})
}

// A node whose certificate is stolen gives what its own pods need, and nothing of other nodes.
func TestNodeKeepsToItsOwn(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	core := w.admin.CoreV1()
	one, two := w.node(t, "n1"), w.node(t, "n2")
	for name, k := range map[string]kubernetes.Interface{"n1": one, "n2": two} {
		if _, err := k.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.account(t, "nodes", "robot")
	uids := map[string]types.UID{}
	for i, name := range []string{"n1", "n2"} {
		for _, kind := range []string{"s", "c"} {
			meta := metav1.ObjectMeta{Name: kind + "-" + name}
			var err error
			if kind == "s" {
				_, err = core.Secrets("nodes").Create(ctx, &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{})
			} else {
				_, err = core.ConfigMaps("nodes").Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}, metav1.CreateOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		p, err := core.Pods("nodes").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i+1)}, Spec: corev1.PodSpec{NodeName: name, ServiceAccountName: "robot", Containers: []corev1.Container{{Name: "c", Image: "i",
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s-" + name}}}, {ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c-" + name}}}}}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		uids[p.Name] = p.UID
	}
	secret := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := one.CoreV1().Secrets("nodes").Get(ctx, name, metav1.GetOptions{})
			return err
		}
	}
	token := func(account string, ref *authenticationv1.BoundObjectReference) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := one.CoreV1().ServiceAccounts("nodes").CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}, metav1.CreateOptions{})
			return err
		}
	}
	bound := func(pod string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uids[pod]}
	}
	patchNode := func(name, sub, patch string) func(context.Context) error {
		return func(ctx context.Context) error {
			var subs []string
			if sub != "" {
				subs = []string{sub}
			}
			_, err := one.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subs...)
			return err
		}
	}
	patchPod := func(name, sub, patch string) func(context.Context) error {
		return func(ctx context.Context) error {
			var subs []string
			if sub != "" {
				subs = []string{sub}
			}
			_, err := one.CoreV1().Pods("nodes").Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subs...)
			return err
		}
	}
	zero := int64(0)
	run(t, []attempt{
		{"its pod's secret", secret("s-n1"), true},
		{"another node's pod's secret", secret("s-n2"), false},
		{"a secret that is not there", secret("none"), false},
		{"all secrets", func(ctx context.Context) error {
			_, err := one.CoreV1().Secrets("nodes").List(ctx, metav1.ListOptions{})
			return err
		}, false},
		{"all secrets of one namespace, watched", func(ctx context.Context) error {
			_, err := one.CoreV1().Secrets("kube-system").Watch(ctx, metav1.ListOptions{})
			return err
		}, false},
		{"another node's pod's config map", func(ctx context.Context) error {
			_, err := one.CoreV1().ConfigMaps("nodes").Get(ctx, "c-n2", metav1.GetOptions{})
			return err
		}, false},
		{"its own pods", func(ctx context.Context) error {
			_, err := one.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
			return err
		}, true},
		{"all pods", func(ctx context.Context) error {
			_, err := one.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		}, false},
		{"another node's pods", func(ctx context.Context) error {
			_, err := one.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n2"})
			return err
		}, false},
		{"its pod's token", token("robot", bound("p1")), true},
		{"another node's pod's token", token("robot", bound("p2")), false},
		{"a token bound to nothing", token("robot", nil), false},
		{"a token of another account bound to its pod", token("default", bound("p1")), false},
		{"a token bound to its pod without the uid", token("robot", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p1"}), false},
		{"its own status", patchNode("n1", "status", `{"status":{"phase":"Running"}}`), true},
		{"another node's status", patchNode("n2", "status", `{"status":{"phase":"Running"}}`), false},
		{"its own taints away", patchNode("n1", "", `{"spec":{"taints":[]}}`), false},
		{"a label that draws pods", patchNode("n1", "", `{"metadata":{"labels":{"node-restriction.kubernetes.io/secure":"yes"}}}`), false},
		{"a role by label", patchNode("n1", "", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`), false},
		{"a label of its own", patchNode("n1", "", `{"metadata":{"labels":{"example.com/mine":"yes"}}}`), true},
		{"its pod's status", patchPod("p1", "status", `{"status":{"message":"m"}}`), true},
		{"another node's pod's status", patchPod("p2", "status", `{"status":{"message":"m"}}`), false},
		{"its pod's labels", patchPod("p1", "", `{"metadata":{"labels":{"a":"b"}}}`), false},
		{"its pod's labels by the status", patchPod("p1", "status", `{"metadata":{"labels":{"a":"b"}},"status":{"message":"n"}}`), false},
		{"a pod of its own making", func(ctx context.Context) error {
			_, err := one.CoreV1().Pods("kube-system").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
			return err
		}, false},
		{"a mirror pod on another node", func(ctx context.Context) error {
			_, err := one.CoreV1().Pods("nodes").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "m"}}, Spec: corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
			return err
		}, false},
		{"another node's pod away", func(ctx context.Context) error {
			return one.CoreV1().Pods("nodes").Delete(ctx, "p2", metav1.DeleteOptions{GracePeriodSeconds: &zero})
		}, false},
		{"another node's pod evicted", func(ctx context.Context) error {
			return one.PolicyV1().Evictions("nodes").Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p2", Namespace: "nodes"}})
		}, false},
		{"another node made", func(ctx context.Context) error {
			_, err := one.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}}, metav1.CreateOptions{})
			return err
		}, false},
		{"another node away", func(ctx context.Context) error { return one.CoreV1().Nodes().Delete(ctx, "n2", metav1.DeleteOptions{}) }, false},
		{"its lease", func(ctx context.Context) error {
			_, err := one.CoordinationV1().Leases("kube-node-lease").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
			return err
		}, true},
		{"another node's lease", func(ctx context.Context) error {
			_, err := one.CoordinationV1().Leases("kube-node-lease").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{})
			return err
		}, false},
		{"a lease elsewhere", func(ctx context.Context) error {
			_, err := one.CoordinationV1().Leases("kube-system").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
			return err
		}, false},
		{"a command in its pod through the API", func(ctx context.Context) error {
			return one.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/nodes/pods/p1/exec").Do(ctx).Error()
		}, false},
		{"another node's kubelet", func(ctx context.Context) error {
			return one.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/n2/proxy/pods").Do(ctx).Error()
		}, false},
		{"roles", func(ctx context.Context) error {
			_, err := one.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
			return err
		}, false},
	})
	// When its pod is gone, so is its claim on what the pod needed.
	if err := core.Pods("nodes").Delete(ctx, "p1", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	for err := secret("s-n1")(ctx); err == nil; err = secret("s-n1")(ctx) {
		if ctx.Err() != nil {
			t.Fatal("it reads on")
		}
	}
}
