package volumes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// signer answers every request for a pod's certificate.
type signer struct {
	answer func(*certificatesv1.PodCertificateRequest)
}

// issue signs with an authority of its own. The first certificate is to be renewed so long after now, later ones after an hour.
func issue(t *testing.T, refresh time.Duration) func(*certificatesv1.PodCertificateRequest) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return func(r *certificatesv1.PodCertificateRequest) {
		request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		must(t, err)
		must(t, request.CheckSignature())
		begin, end := time.Now().Add(-time.Minute).Truncate(time.Second), time.Now().Add(24*time.Hour).Truncate(time.Second)
		template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: begin, NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, request.PublicKey, key)
		must(t, err)
		r.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
			CertificateChain: "a remark\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"a": "b"}, Bytes: der})),
			NotBefore:        &metav1.Time{Time: begin}, NotAfter: &metav1.Time{Time: end}, BeginRefreshAt: &metav1.Time{Time: time.Now().Add(refresh)},
		}
		refresh = time.Hour
	}
}

func (s signer) run(ctx context.Context, t *testing.T, api *fake.Clientset) {
	w, err := api.CertificatesV1().PodCertificateRequests("").Watch(ctx, metav1.ListOptions{})
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			r, ok := e.Object.(*certificatesv1.PodCertificateRequest)
			if !ok || e.Type != watch.Added {
				continue
			}
			r = r.DeepCopy()
			s.answer(r)
			if _, err := api.CertificatesV1().PodCertificateRequests(r.Namespace).UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() { w.Stop(); <-done })
}

func certificatePod() *corev1.Pod {
	return podWith(corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []corev1.VolumeProjection{
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/x", KeyType: "ECDSAP256", CredentialBundlePath: "both.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem",
			UserAnnotations: map[string]string{"example.com/a": "b"}}}}}}})
}

func certificateFixture(t *testing.T) *fixture {
	f := newFixture(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "nu"}})
	made := 0
	f.api.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		made++ // the fake makes no names
		r := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		r.Name = fmt.Sprint(r.GenerateName, made)
		return false, nil, nil
	})
	return f
}

func TestPodCertificateIsAskedForOnce(t *testing.T) {
	needsMounts(t)
	f := certificateFixture(t)
	signer{issue(t, time.Hour)}.run(t.Context(), t, f.api)
	pod := certificatePod()
	for range 2 {
		_, err := f.Mount(t.Context(), pod)
		must(t, err)
	}
	dir := filepath.Join(f.root, "pods/uid-1/volumes/kubernetes.io~projected/tls")
	if _, err := tls.X509KeyPair([]byte(read(t, dir, "chain.pem")), []byte(read(t, dir, "key.pem"))); err != nil {
		t.Errorf("the key and the certificate: %v", err)
	}
	if got, want := read(t, dir, "both.pem"), read(t, dir, "key.pem")+read(t, dir, "chain.pem"); got != want || strings.Contains(got, "remark") || strings.Contains(got, "a: b") {
		t.Errorf("bundle: %s", got)
	}
	list, err := f.api.CertificatesV1().PodCertificateRequests("ns").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 1 {
		t.Fatalf("%d requests for one certificate", len(list.Items))
	}
	s := list.Items[0].Spec
	if s.PodUID != "uid-1" || s.ServiceAccountUID != "a" || s.NodeUID != "nu" || s.NodeName != "n" || s.UnverifiedUserAnnotations["example.com/a"] != "b" {
		t.Errorf("request %+v", s)
	}
	if owners := list.Items[0].OwnerReferences; len(owners) != 1 || owners[0].UID != "uid-1" {
		t.Errorf("owners %v", owners)
	}
	must(t, f.Unmount(t.Context(), pod.UID))
}

func TestPodCertificateIsRenewed(t *testing.T) {
	needsMounts(t)
	f := certificateFixture(t)
	signer{issue(t, -signerSpread)}.run(t.Context(), t, f.api) // due at once
	pod := certificatePod()
	_, err := f.Mount(t.Context(), pod)
	must(t, err)
	chain := filepath.Join(f.root, "pods/uid-1/volumes/kubernetes.io~projected/tls/chain.pem")
	first := read(t, chain)
	eventually(t, "another certificate", func() bool { return read(t, chain) != first })
	must(t, f.Unmount(t.Context(), pod.UID))
}

func TestSignerRefuses(t *testing.T) {
	needsMounts(t)
	f := certificateFixture(t)
	signer{func(r *certificatesv1.PodCertificateRequest) {
		r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue, Reason: "Unknown", Message: "never heard of it"}}
	}}.run(t.Context(), t, f.api)
	for range 2 {
		if _, err := f.Mount(t.Context(), certificatePod()); err == nil || !strings.Contains(err.Error(), `Denied: reason="Unknown", message="never heard of it"`) {
			t.Errorf("mounted, or said %v", err)
		}
	}
	list, err := f.api.CertificatesV1().PodCertificateRequests("ns").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 1 {
		t.Errorf("asked %d times", len(list.Items))
	}
	must(t, f.Unmount(t.Context(), "uid-1"))
}
