package admission

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestTrustBundlesNeedAttestation(t *testing.T) {
	w := newWorld(t, grants{allowed: map[string]bool{"boss attest signers example.com/x": true}})
	boss := &user.DefaultInfo{Name: "boss"}
	bundle := func(signer string, change func(*certificatesv1.ClusterTrustBundle)) *certificatesv1.ClusterTrustBundle {
		b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: "x"}}
		if change != nil {
			change(b)
		}
		return b
	}
	const bundles = "certificates.k8s.io|clustertrustbundles"
	for name, c := range map[string]struct {
		r       request
		refused bool
	}{
		"of no signer":       {request{op: admission.Create, object: bundle("", nil), resource: bundles}, false},
		"attested":           {request{op: admission.Create, object: bundle("example.com/x", nil), resource: bundles, user: boss}, false},
		"not attested":       {request{op: admission.Create, object: bundle("example.com/x", nil), resource: bundles}, true},
		"another's":          {request{op: admission.Create, object: bundle("example.com/y", nil), resource: bundles, user: boss}, true},
		"changed":            {request{op: admission.Update, object: bundle("example.com/x", func(b *certificatesv1.ClusterTrustBundle) { b.Spec.TrustBundle = "y" }), old: bundle("example.com/x", nil), resource: bundles}, true},
		"only its finalizer": {request{op: admission.Update, object: bundle("example.com/x", func(b *certificatesv1.ClusterTrustBundle) { b.Finalizers = []string{"a/b"} }), old: bundle("example.com/x", nil), resource: bundles}, false},
	} {
		err := w.admit(t, c.r)
		if apierrors.IsForbidden(err) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlySignersAnswerPodCertificateRequests(t *testing.T) {
	w := newWorld(t, grants{allowed: map[string]bool{"boss sign signers example.com/*": true}})
	old := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/x"}}
	answered := old.DeepCopy()
	answered.Status.Conditions = []metav1.Condition{{Type: "Denied", Status: "True"}}
	for name, c := range map[string]struct {
		object  *certificatesv1.PodCertificateRequest
		user    string
		refused bool
	}{
		"the signer": {answered, "boss", false},
		"another":    {answered, "jane", true},
		"no answer":  {old, "jane", false},
	} {
		err := w.admit(t, request{op: admission.Update, object: c.object, old: old, resource: "certificates.k8s.io|podcertificaterequests/status", user: &user.DefaultInfo{Name: c.user}})
		if apierrors.IsInvalid(err) != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNodesAskForTheirPodsCertificates(t *testing.T) {
	mounts := func(p *corev1.Pod) {
		p.UID, p.Spec.ServiceAccountName = "u", "default"
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/x"}}}}}}}
	}
	w := newWorld(t, grants{}, account(func(a *corev1.ServiceAccount) { a.UID = "a" }), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "nu"}},
		pod(func(p *corev1.Pod) { mounts(p); p.Name, p.Spec.NodeName = "own", "n1" }),
		pod(func(p *corev1.Pod) { mounts(p); p.Name, p.Spec.NodeName = "other", "n2" }),
		pod(func(p *corev1.Pod) {
			mounts(p)
			p.Name, p.Spec.NodeName = "mirror", "n1"
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}))
	who := &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
	for name, c := range map[string]struct {
		change  func(*certificatesv1.PodCertificateRequestSpec)
		refused string
	}{
		"own":             {func(*certificatesv1.PodCertificateRequestSpec) {}, ""},
		"another node":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeName = "n2" }, "which is not the requesting node"},
		"former node":     {func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeUID = "x" }, "inconsistent with the running node"},
		"other's pod":     {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "other" }, "is not running on node"},
		"former pod":      {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "x" }, "which differs from running pod"},
		"no pod":          {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "absent" }, "while retrieving pod"},
		"mirror pod":      {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "mirror" }, "is a mirror pod"},
		"another account": {func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountName = "admin" }, "that differs from running pod"},
		"former account":  {func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "x" }, "which differs from the running service account"},
		"another signer":  {func(s *certificatesv1.PodCertificateRequestSpec) { s.SignerName = "example.com/y" }, "does not mount a podCertificate projected volume"},
	} {
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r"}, Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/x",
			PodName: "own", PodUID: "u", ServiceAccountName: "default", ServiceAccountUID: "a", NodeName: "n1", NodeUID: "nu"}}
		c.change(&r.Spec)
		err := w.admit(t, request{op: admission.Create, object: r, resource: "certificates.k8s.io|podcertificaterequests", user: who})
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
	}
}
