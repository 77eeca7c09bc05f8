package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestNodesSelectWhatIsStoredInAnotherVersion lists and watches a node's own requests for certificates, which are stored as v1beta1: a node selects them by the field that
// stored objects are indexed by.
func TestNodesSelectWhatIsStoredInAnotherVersion(t *testing.T) {
	_, cs := running(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	requests := cs.CertificatesV1().PodCertificateRequests("default")
	create := func(name, node string) *certificatesv1.PodCertificateRequest {
		t.Helper()
		r, err := requests.Create(ctx, &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/x", PodName: "p", PodUID: "pu", ServiceAccountName: "default", ServiceAccountUID: "au", NodeName: types.NodeName(node), NodeUID: "nu", StubPKCS10Request: stub},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	create("first", "n1")
	create("others", "n2")
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "first" {
		t.Fatalf("of the node: %v, %v", list.Items, err)
	}
	watch, err := requests.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1", ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	create("others-again", "n2")
	create("second", "n1")
	select {
	case e := <-watch.ResultChan():
		if r, ok := e.Object.(*certificatesv1.PodCertificateRequest); !ok || r.Name != "second" {
			t.Errorf("watched %s %v", e.Type, e.Object)
		}
	case <-ctx.Done():
		t.Error("no event of the node's second request")
	}
}
