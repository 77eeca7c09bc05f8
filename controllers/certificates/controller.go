// Package certificates approves, signs and clears away CertificateSigningRequests (upstream's csrapproving, csrsigning
// and csrcleaner): how a joining node gets its certificates, and how nodes renew them.
//
// Approval: kubelet client certificates for whoever may ask for certificatesigningrequests/nodeclient or selfnodeclient;
// and kubelet serving certificates, which upstream leaves to the administrator, when every name and address in them
// belongs to the node that asks. Everything else waits for a person. Signing: all four kubernetes.io signers, once approved.
package certificates

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// Config of the controller.
type Config struct {
	// Client acts as the service account kube-system/certificate-controller.
	Client *client.Set
	// CA and Key sign.
	CA  *x509.Certificate
	Key crypto.Signer
	// Lifetime of a certificate whose request names none. Default 1 year. A request may ask for less, down to 10 minutes.
	Lifetime time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	Log *slog.Logger
	// Ready is called when requests are being handled. May be nil.
	Ready func()
}

const workers = 2

// How long requests are kept, by how they ended (upstream's periods).
const (
	keepApproved = time.Hour
	keepDenied   = time.Hour
	keepPending  = 24 * time.Hour
)

type controller struct {
	Config
	requests certificateslisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	loop     *client.Loop
}

// Run handles requests until ctx ends and returns when its goroutines have ended.
func Run(ctx context.Context, c Config) error {
	if c.Lifetime == 0 {
		c.Lifetime = 365 * 24 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.CA == nil || c.Key == nil {
		return errors.New("certificate controller: no authority to sign with")
	}
	requests, nodes := c.Client.Informers.Certificates().V1().CertificateSigningRequests(), c.Client.Informers.Core().V1().Nodes()
	x := &controller{Config: c, requests: requests.Lister(), nodes: nodes.Lister()}
	x.loop = client.NewLoop("certificates", workers, c.Log, x.reconcile)
	var handlers client.Handlers
	defer handlers.Remove()
	if err := handlers.On(requests.Informer(), client.Each(func(csr *certificatesv1.CertificateSigningRequest) { x.loop.Add(csr.Name) })); err != nil {
		return fmt.Errorf("certificate controller: %w", err)
	}
	// A kubelet asks for its serving certificate when it starts, which may be before its Node tells its addresses.
	if err := handlers.On(nodes.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: x.nodeChanged,
		UpdateFunc: func(old, fresh any) {
			a, okA := old.(*corev1.Node)
			b, okB := fresh.(*corev1.Node)
			if okA && okB && slices.Equal(a.Status.Addresses, b.Status.Addresses) {
				return // a heartbeat
			}
			x.nodeChanged(fresh)
		},
	}); err != nil {
		return fmt.Errorf("certificate controller: %w", err)
	}
	if !handlers.Sync(ctx, c.Client) {
		return nil
	}
	if c.Ready != nil {
		c.Ready()
	}
	x.loop.Run(ctx)
	return nil
}

func (x *controller) nodeChanged(object any) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return
	}
	all, err := x.requests.List(labels.Everything())
	if err != nil {
		return // the lister reads memory
	}
	for _, csr := range all {
		if csr.Spec.SignerName == certificatesv1.KubeletServingSignerName && csr.Spec.Username == nodeUserPrefix+node.Name && len(csr.Status.Conditions) == 0 {
			x.loop.Add(csr.Name)
		}
	}
}

func (x *controller) reconcile(ctx context.Context, name string) error {
	again, err := x.sync(ctx, name)
	switch {
	case apierrors.IsNotFound(err):
		return nil // it went meanwhile
	case err == nil && again > 0:
		x.loop.AddAfter(name, again)
	}
	return err
}

// sync approves and signs one request, or removes it when it is old. It returns when to look again, zero for never.
func (x *controller) sync(ctx context.Context, name string) (time.Duration, error) {
	csr, err := x.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if left := x.keepFor(csr); left <= 0 {
		err := x.Client.Kubernetes.CertificatesV1().CertificateSigningRequests().Delete(ctx, name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &csr.UID}})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return 0, err
	}
	if len(csr.Status.Conditions) == 0 {
		approved, err := x.approve(ctx, csr)
		if err != nil {
			return 0, err
		}
		if approved != nil {
			csr = approved // no need to wait for our own event
		}
	}
	if is(csr, certificatesv1.CertificateApproved) && !is(csr, certificatesv1.CertificateDenied) && !is(csr, certificatesv1.CertificateFailed) && len(csr.Status.Certificate) == 0 {
		if err := x.sign(ctx, csr); err != nil {
			return 0, err
		}
	}
	return x.keepFor(csr), nil
}

func is(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == kind {
			return true
		}
	}
	return false
}

// keepFor returns how long the request is still kept; at most zero means it goes now.
func (x *controller) keepFor(csr *certificatesv1.CertificateSigningRequest) time.Duration {
	now := x.Now()
	end := csr.CreationTimestamp.Add(keepPending)
	for i := range csr.Status.Conditions {
		at := csr.Status.Conditions[i].LastUpdateTime.Time
		if at.IsZero() {
			at = csr.CreationTimestamp.Time
		}
		switch csr.Status.Conditions[i].Type {
		case certificatesv1.CertificateApproved:
			if len(csr.Status.Certificate) > 0 {
				end = at.Add(keepApproved)
			}
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return at.Add(keepDenied).Sub(now)
		}
	}
	return end.Sub(now)
}
