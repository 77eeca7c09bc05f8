package volumes

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// signerPatience bounds how long making a volume waits for the signer; the request goes on, and the next try waits for it again.
	signerPatience = 10 * time.Second
	// signerRetry is how soon a renewal that was not answered is looked at again.
	signerRetry = time.Minute
	// signerSpread keeps pods that started together from renewing together.
	signerSpread = 5 * time.Minute
)

// podCertificates asks signers for the certificates that pods mount (KEP-4317) and keeps each, with its key, until it is due for renewal. Keys
// never leave the node. Safe for concurrent use, but for one source of one volume one call at a time; bounded by the pods on the node.
type podCertificates struct {
	api kubernetes.Interface

	mu   sync.Mutex // guards held; what it points to belongs to whoever makes that volume
	held map[types.UID]map[certificateSource]*podCertificate
}

type certificateSource struct {
	volume string
	index  int
}

// podCertificate is what is known about one source: what was issued, and what is asked for.
type podCertificate struct {
	key, chain []byte // PEM; nil before the first is issued
	renew, end time.Time
	refusal    error // the signer's last word

	request    string // that waits for an answer, or ""
	requestKey []byte
}

func newPodCertificates(api kubernetes.Interface) *podCertificates {
	return &podCertificates{api: api, held: map[types.UID]map[certificateSource]*podCertificate{}}
}

func (c *podCertificates) of(pod types.UID, source certificateSource) *podCertificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[pod] == nil {
		c.held[pod] = map[certificateSource]*podCertificate{}
	}
	if c.held[pod][source] == nil {
		c.held[pod][source] = &podCertificate{}
	}
	return c.held[pod][source]
}

func (c *podCertificates) forget(pod types.UID) {
	c.mu.Lock()
	delete(c.held, pod)
	c.mu.Unlock()
}

// get returns a key, its certificate chain and when they are due for renewal. When a renewal fails and the old ones are still good, they are
// returned, to be renewed soon.
func (c *podCertificates) get(ctx context.Context, pod *corev1.Pod, source certificateSource, want *corev1.PodCertificateProjection) (*podCertificate, error) {
	p := c.of(pod.UID, source)
	if p.refusal != nil {
		return nil, p.refusal
	}
	now := time.Now()
	if p.chain != nil && now.Before(p.renew) {
		return p, nil
	}
	err := c.issue(ctx, pod, p, want)
	if err != nil && p.chain != nil && now.Before(p.end) && p.refusal == nil {
		old := *p
		old.renew = now.Add(signerRetry)
		return &old, nil
	}
	return p, err
}

// issue asks the signer, unless it has been asked already, and waits for the answer.
func (c *podCertificates) issue(ctx context.Context, pod *corev1.Pod, p *podCertificate, want *corev1.PodCertificateProjection) error {
	if p.request == "" {
		if err := c.ask(ctx, pod, p, want); err != nil {
			return err
		}
	}
	name := pod.Namespace + "/" + p.request
	answer, err := c.answer(ctx, pod, p.request)
	switch {
	case apierrors.IsNotFound(err):
		p.request = "" // somebody took it away: the next try asks anew
		return fmt.Errorf("PodCertificateRequest %q is gone", name)
	case err != nil:
		return fmt.Errorf("wait for PodCertificateRequest %q: %w", name, err)
	}
	outcome := outcomeOf(answer)
	if outcome.Type != certificatesv1.PodCertificateRequestConditionTypeIssued {
		p.refusal = fmt.Errorf("PodCertificateRequest %q: %s: reason=%q, message=%q", name, outcome.Type, outcome.Reason, outcome.Message)
		return p.refusal
	}
	p.key, p.chain, p.request, p.requestKey = p.requestKey, onlyCertificates(answer.Status.CertificateChain), "", nil
	p.end = answer.Status.NotAfter.Time
	p.renew = answer.Status.BeginRefreshAt.Add(randomUpTo(signerSpread))
	return nil
}

// ask makes a key and a request for it.
func (c *podCertificates) ask(ctx context.Context, pod *corev1.Pod, p *podCertificate, want *corev1.PodCertificateProjection) error {
	key, err := newKey(want.KeyType)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	// The signer learns who they are, not only what they are called.
	account, err := c.api.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read service account: %w", err)
	}
	node, err := c.api.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	made, err := c.api.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "req-", Namespace: pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: want.SignerName, MaxExpirationSeconds: want.MaxExpirationSeconds, StubPKCS10Request: stub, UnverifiedUserAnnotations: want.UserAnnotations,
			PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID, NodeName: types.NodeName(node.Name), NodeUID: node.UID,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask signer %s for a certificate: %w", want.SignerName, err)
	}
	p.request, p.requestKey = made.Name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return nil
}

// answer waits until the signer has decided about a request, for a while.
func (c *podCertificates) answer(ctx context.Context, pod *corev1.Pod, name string) (*certificatesv1.PodCertificateRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, signerPatience)
	defer cancel()
	requests := c.api.CertificatesV1().PodCertificateRequests(pod.Namespace)
	// A node may see its own requests only, and must say so.
	selector := fields.Set{"metadata.name": name, "spec.nodeName": pod.Spec.NodeName}.AsSelector().String()
	list, err := requests.List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list.Items, func(r certificatesv1.PodCertificateRequest) bool { return r.Name == name })
	if i < 0 {
		return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), name)
	}
	if r := &list.Items[i]; outcomeOf(r) != nil {
		return r, nil
	}
	w, err := requests.Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, errors.New("the signer has not answered yet")
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, errors.New("the signer has not answered yet")
			}
			if r, ok := e.Object.(*certificatesv1.PodCertificateRequest); ok && r.Name == name && outcomeOf(r) != nil {
				return r, nil
			}
		}
	}
}

// outcomeOf is the condition that ends a request; nil while it waits.
func outcomeOf(r *certificatesv1.PodCertificateRequest) *metav1.Condition {
	for i := range r.Status.Conditions {
		switch c := &r.Status.Conditions[i]; c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			return c
		}
	}
	return nil
}

// onlyCertificates leaves out what else is in a PEM text.
func onlyCertificates(chain string) []byte {
	var out bytes.Buffer
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
	return out.Bytes()
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("unknown key type %q", kind)
}

func randomUpTo(d time.Duration) time.Duration {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)))
	if err != nil {
		return 0
	}
	return time.Duration(n.Int64())
}

// podCertificate adds a key and its certificate to the payload and says when they must be renewed. As with tokens, pods which share one user get
// them readable by that user alone.
func (t contentTree) podCertificate(ctx context.Context, p payload, pod *corev1.Pod, source certificateSource, want *corev1.PodCertificateProjection, defaultMode *int32) (time.Time, error) {
	got, err := t.certificates.get(ctx, pod, source, want)
	if err != nil {
		return time.Time{}, err
	}
	mode, user := modeOf(nil, defaultMode), onlyUser(pod)
	if user != nil || fsGroup(pod) != nil {
		mode = 0o600
	}
	for path, data := range map[string][]byte{
		want.CredentialBundlePath: append(bytes.Clone(got.key), got.chain...), want.KeyPath: got.key, want.CertificateChainPath: got.chain,
	} {
		if path != "" {
			p[path] = file{data: data, mode: mode, user: user}
		}
	}
	return got.renew, nil
}
