package serviceaccount

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
)

type signer struct{}

func (signer) Legacy(account *corev1.ServiceAccount, secret string) (string, error) {
	return "token of " + account.Name + " in " + secret, nil
}

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func eventually(t *testing.T, what string, condition func(context.Context) bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) { return condition(ctx), nil }); err != nil {
		t.Fatalf("never: %s", what)
	}
}

func TestNamespacesAreFurnished(t *testing.T) {
	k := fake.NewClientset(namespace("first", corev1.NamespaceActive), namespace("leaving", corev1.NamespaceTerminating))
	ctx, cancel := context.WithCancel(t.Context())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() {
		done <- Run(ctx, Config{Client: &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}, RootCA: []byte("CA"), Tokens: signer{}, Ready: func() { close(ready) }})
	}()
	<-ready
	has := func(ctx context.Context, ns string) bool {
		_, err := k.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		m, err2 := k.CoreV1().ConfigMaps(ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil && err2 == nil && m.Data["ca.crt"] == "CA" && len(m.Data) == 1
	}
	if !has(ctx, "first") {
		t.Error("a namespace of before is not complete at Ready")
	}
	if _, err := k.CoreV1().Namespaces().Create(ctx, namespace("second", corev1.NamespaceActive), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new namespace is complete", func(ctx context.Context) bool { return has(ctx, "second") })
	if err := k.CoreV1().ServiceAccounts("second").Delete(ctx, "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.CoreV1().ConfigMaps("second").Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "second", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "forged", "x": "y"}}, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was taken or changed is back", func(ctx context.Context) bool { return has(ctx, "second") })

	token := func(name, account string, uid string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "first", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}}, Type: corev1.SecretTypeServiceAccountToken}
		if uid != "" {
			s.Annotations[corev1.ServiceAccountUIDKey] = uid
		}
		return s
	}
	if _, err := k.CoreV1().ServiceAccounts("first").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "first", Name: "robot", UID: "u"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*corev1.Secret{token("good", "robot", ""), token("orphan", "nobody", ""), token("stale", "robot", "old")} {
		if _, err := k.CoreV1().Secrets("first").Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the token is there", func(ctx context.Context) bool {
		s, err := k.CoreV1().Secrets("first").Get(ctx, "good", metav1.GetOptions{})
		return err == nil && string(s.Data["token"]) == "token of robot in good" && string(s.Data["namespace"]) == "first" && string(s.Data["ca.crt"]) == "CA" && s.Annotations[corev1.ServiceAccountUIDKey] == "u"
	})
	for _, name := range []string{"orphan", "stale"} {
		eventually(t, name+" is gone", func(ctx context.Context) bool {
			_, err := k.CoreV1().Secrets("first").Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	}
	if err := k.CoreV1().ServiceAccounts("first").Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token goes with its account", func(ctx context.Context) bool {
		_, err := k.CoreV1().Secrets("first").Get(ctx, "good", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if has(ctx, "leaving") {
		t.Error("a namespace that is leaving was furnished")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
