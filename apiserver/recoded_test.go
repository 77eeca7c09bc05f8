package apiserver

import (
	"bytes"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestOlderFieldsAreKept: what only the stored version of a kind has stays, whatever is written by the served one.
func TestOlderFieldsAreKept(t *testing.T) {
	w := start(t, nil)
	life := int32(3600)
	older := &certificatesv1beta1.PodCertificateRequest{TypeMeta: metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1beta1", Kind: "PodCertificateRequest"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "older", UID: "u", Finalizers: []string{"example.com/keep"}},
		Spec: certificatesv1beta1.PodCertificateRequestSpec{SignerName: "example.com/signer", PodName: "p", PodUID: "pu", ServiceAccountName: "s", ServiceAccountUID: "su", NodeName: "n", NodeUID: "nu",
			MaxExpirationSeconds: &life, PKIXPublicKey: []byte("key"), ProofOfPossession: []byte("proof")}}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	encoded, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, certificatesv1beta1.SchemeGroupVersion), older)
	if err != nil {
		t.Fatal(err)
	}
	const key = "/registry/podcertificaterequests/default/older"
	if _, err := w.etcd.Put(t.Context(), key, string(encoded)); err != nil {
		t.Fatal(err)
	}
	stored := func() *certificatesv1beta1.PodCertificateRequest {
		t.Helper()
		var r certificatesv1beta1.PodCertificateRequest
		if err := runtime.DecodeInto(scheme.Codecs.UniversalDeserializer(), []byte(w.bytesOf(t, key)), &r); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Spec.PKIXPublicKey, older.Spec.PKIXPublicKey) || !bytes.Equal(r.Spec.ProofOfPossession, older.Spec.ProofOfPossession) {
			t.Errorf("the key is lost: %+v", r.Spec)
		}
		return &r
	}
	requests, ctx := w.client(t, true).CertificatesV1().PodCertificateRequests("default"), t.Context()
	if _, err := requests.Patch(ctx, "older", types.MergePatchType, []byte(`{"metadata":{"labels":{"seen":"yes"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := stored(); r.Labels["seen"] != "yes" {
		t.Error("the label is not stored")
	}
	r, err := requests.Get(ctx, "older", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()}}
	if _, err := requests.UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := stored(); len(r.Status.Conditions) != 1 {
		t.Error("the status is not stored")
	}
	if err := requests.Delete(ctx, "older", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := stored(); r.DeletionTimestamp == nil {
		t.Error("the deletion is not stored")
	}
}
