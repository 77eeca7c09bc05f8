package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/client"
)

func authority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

type ask struct {
	signer, user string
	groups       []string
	request      x509.CertificateRequest
	usages       []certificatesv1.KeyUsage
	seconds      *int32
	created      time.Time
	approved     bool // by a person
}

func (a ask) object(t testing.TB) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.request, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.created.IsZero() {
		a.created = time.Now()
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "csr", UID: "u", CreationTimestamp: metav1.NewTime(a.created)},
		Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: a.signer, Username: a.user, Groups: a.groups, Usages: a.usages, ExpirationSeconds: a.seconds,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	if a.approved {
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, LastUpdateTime: metav1.NewTime(a.created)}}
	}
	return csr
}

func nodeSubject(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

var (
	clientUse  = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	servingUse = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}
)

const (
	kubelet = certificatesv1.KubeAPIServerClientKubeletSignerName
	serving = certificatesv1.KubeletServingSignerName
)

// start runs a controller over objects; may answers access reviews by "user subresource".
func start(t *testing.T, may map[string]bool, objects ...runtime.Object) (*fake.Clientset, *x509.Certificate) {
	t.Helper()
	k := fake.NewClientset(objects...)
	k.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		review.Status.Allowed = may[review.Spec.User+" "+review.Spec.ResourceAttributes.Subresource]
		return true, review, nil
	})
	ca, key := authority(t)
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() {
		done <- Run(ctx, Config{Client: &client.Set{Kubernetes: k, Informers: informers.NewSharedInformerFactory(k, 0)}, CA: ca, Key: key, Ready: func() { close(ready) }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-ready
	return k, ca
}

// settled waits until the request satisfies ok.
func settled(t *testing.T, k *fake.Clientset, ok func(*certificatesv1.CertificateSigningRequest) bool) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var csr *certificatesv1.CertificateSigningRequest
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		var err error
		csr, err = k.CertificatesV1().CertificateSigningRequests().Get(ctx, "csr", metav1.GetOptions{})
		if err != nil {
			return ok(nil), nil
		}
		return ok(csr), nil
	})
	if err != nil {
		t.Fatalf("never settled: %+v", csr)
	}
	return csr
}

func TestJoiningNodeGetsItsCertificate(t *testing.T) {
	for name, a := range map[string]ask{
		"join":  {signer: kubelet, user: "system:bootstrap:abcdef", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse},
		"renew": {signer: kubelet, user: "system:node:n1", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse, seconds: new(int32(3600))},
	} {
		t.Run(name, func(t *testing.T) {
			k, ca := start(t, map[string]bool{"system:bootstrap:abcdef nodeclient": true, "system:node:n1 selfnodeclient": true})
			if _, err := k.CertificatesV1().CertificateSigningRequests().Create(t.Context(), a.object(t), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			csr := settled(t, k, func(c *certificatesv1.CertificateSigningRequest) bool {
				return c != nil && len(c.Status.Certificate) > 0
			})
			block, _ := pem.Decode(csr.Status.Certificate)
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AddCert(ca)
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Error(err)
			}
			if cert.IsCA || cert.Subject.CommonName != "system:node:n1" || len(cert.ExtKeyUsage) != 1 {
				t.Errorf("certificate %+v", cert.Subject)
			}
			if a.seconds != nil && time.Until(cert.NotAfter) > time.Hour {
				t.Errorf("lives until %v", cert.NotAfter)
			}
		})
	}
}

// What is left for a person stays without a condition; the controller is shown to have looked at it by what comes after it.
func TestOthersAreLeftForAPerson(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: "n1"}}}}
	nodes := []string{"system:nodes"}
	evil, _ := url.Parse("spiffe://x")
	for name, c := range map[string]struct {
		ask      ask
		approved bool
	}{
		"no permission":         {ask{signer: kubelet, user: "jane", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse}, false},
		"other node":            {ask{signer: kubelet, user: "system:node:n2", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse}, false},
		"not a node's name":     {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: nodes}}, usages: clientUse}, false},
		"masters":               {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:masters"}}}, usages: clientUse}, false},
		"two organizations":     {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes", "system:masters"}}}, usages: clientUse}, false},
		"server use":            {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: servingUse}, false},
		"names":                 {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, usages: clientUse}, false},
		"user's certificate":    {ask{signer: certificatesv1.KubeAPIServerClientSignerName, user: "may", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse}, false},
		"permitted":             {ask{signer: kubelet, user: "may", request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: clientUse}, true},
		"serving":               {ask{signer: serving, user: "system:node:n1", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, usages: servingUse}, true},
		"serving, other's IP":   {ask{signer: serving, user: "system:node:n1", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1"), IPAddresses: []net.IP{net.IPv4(10, 0, 0, 2)}}, usages: servingUse}, false},
		"serving, other's name": {ask{signer: serving, user: "system:node:n1", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"kubernetes"}}, usages: servingUse}, false},
		"serving, for other":    {ask{signer: serving, user: "system:node:n2", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, usages: servingUse}, false},
		"serving, no group":     {ask{signer: serving, user: "system:node:n1", request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, usages: servingUse}, false},
		"serving, nameless":     {ask{signer: serving, user: "system:node:n1", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1")}, usages: servingUse}, false},
		"serving, URI":          {ask{signer: serving, user: "system:node:n1", groups: nodes, request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}, URIs: []*url.URL{evil}}, usages: servingUse}, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := fake.NewClientset(node)
			k.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
				review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
				review.Status.Allowed = review.Spec.User == "may"
				return true, review, nil
			})
			csr := c.ask.object(t)
			if err := k.Tracker().Add(csr); err != nil {
				t.Fatal(err)
			}
			factory := informers.NewSharedInformerFactory(k, 0)
			x := &controller{Config: Config{Client: &client.Set{Kubernetes: k, Informers: factory}, Now: time.Now}, nodes: factory.Core().V1().Nodes().Lister()}
			if err := factory.Core().V1().Nodes().Informer().GetIndexer().Add(node); err != nil {
				t.Fatal(err)
			}
			approved, err := x.approve(t.Context(), csr)
			if err != nil || (approved != nil) != c.approved {
				t.Errorf("approved %v, error %v", approved != nil, err)
			}
		})
	}
}

// A kubelet asks before its Node tells its addresses; the Node's event brings the request back.
func TestServingCertificateWaitsForTheNode(t *testing.T) {
	a := ask{signer: serving, user: "system:node:n1", groups: []string{"system:nodes"}, request: x509.CertificateRequest{Subject: nodeSubject("n1"), DNSNames: []string{"n1"}}, usages: servingUse}
	k, _ := start(t, nil, a.object(t))
	node, err := k.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}}
	if _, err := k.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	settled(t, k, func(c *certificatesv1.CertificateSigningRequest) bool {
		return c != nil && len(c.Status.Certificate) > 0
	})
}

func TestBrokenRulesFailAndOldOnesGo(t *testing.T) {
	t.Run("approved against the rules", func(t *testing.T) {
		a := ask{signer: kubelet, user: "x", request: x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:nodes"}}}, usages: clientUse, approved: true}
		k, _ := start(t, nil, a.object(t))
		csr := settled(t, k, func(c *certificatesv1.CertificateSigningRequest) bool {
			return c != nil && is(c, certificatesv1.CertificateFailed)
		})
		if c := csr.Status.Conditions[1]; c.Reason != "SignerValidationFailure" || !strings.Contains(c.Message, "common name") || len(csr.Status.Certificate) > 0 {
			t.Errorf("condition %+v", c)
		}
	})
	t.Run("pending for a day", func(t *testing.T) {
		a := ask{signer: "example.com/x", user: "x", usages: clientUse, created: time.Now().Add(-25 * time.Hour)}
		k, _ := start(t, nil, a.object(t))
		settled(t, k, func(c *certificatesv1.CertificateSigningRequest) bool { return c == nil })
	})
	t.Run("user's certificate, approved by a person", func(t *testing.T) {
		a := ask{signer: certificatesv1.KubeAPIServerClientSignerName, user: "x", request: x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, usages: clientUse, approved: true}
		k, _ := start(t, nil, a.object(t))
		settled(t, k, func(c *certificatesv1.CertificateSigningRequest) bool {
			return c != nil && len(c.Status.Certificate) > 0
		})
	})
}
