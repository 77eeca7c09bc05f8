package bootstraptoken

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/pki"
)

// A token signs cluster-info from its creation until its time is over, and then is gone, to the second.
func TestTokensSignAndExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "content", "jws-kubeconfig-gone00": "old"}}
		lasting, err := pki.BootstrapTokenSecret("aaaaaa.0123456789abcdef", "", time.Now(), 0)
		if err != nil {
			t.Fatal(err)
		}
		other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-cccccc"}, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"expiration": []byte("2000-01-01T00:00:00Z")}}
		k := fake.NewClientset(info, lasting, other)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Run(ctx, Config{Client: &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}})
		}()
		signatures := func() string {
			synctest.Wait()
			m, err := k.CoreV1().ConfigMaps("kube-public").Get(ctx, "cluster-info", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out := ""
			for _, id := range []string{"aaaaaa", "bbbbbb", "gone00"} {
				if m.Data["jws-kubeconfig-"+id] != "" {
					out += id + " "
				}
			}
			return out
		}
		time.Sleep(time.Second) // bubble time: the informers have started
		if got := signatures(); got != "aaaaaa " {
			t.Errorf("at start signed by %q", got)
		}
		short, err := pki.BootstrapTokenSecret("bbbbbb.0123456789abcdef", "", time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.CoreV1().Secrets("kube-system").Create(ctx, short, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := signatures(); got != "aaaaaa bbbbbb " {
			t.Errorf("with a second token signed by %q", got)
		}
		time.Sleep(time.Hour - 10*time.Second)
		if got := signatures(); got != "aaaaaa bbbbbb " {
			t.Errorf("shortly before its end signed by %q", got)
		}
		time.Sleep(20 * time.Second)
		if got := signatures(); got != "aaaaaa " {
			t.Errorf("after its end signed by %q", got)
		}
		left, err := k.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
		if err != nil || len(left.Items) != 2 {
			t.Errorf("%d secrets left, %v", len(left.Items), err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
