package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Upstream's heartbeat (KEP-589): a lease of 40 s, renewed at a quarter of it.
const (
	leaseSeconds = 40
	leaseEvery   = leaseSeconds * time.Second / 4
)

// keepLease renews the node's Lease in kube-node-lease until ctx ends.
func keepLease(ctx context.Context, api kubernetes.Interface, node *corev1.Node, log *slog.Logger) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var held *coordinationv1.Lease
	delay := firstRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := renew(ctx, api, node, held)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			held = nil // read it anew
			if delay > time.Second {
				log.Warn("node lease could not be renewed; will try again", "err", err)
			}
			timer.Reset(delay)
			delay = min(2*delay, apiRetryMost)
			continue
		}
		held, delay = next, firstRetry
		timer.Reset(leaseEvery)
	}
}

// renew writes a new renewal time; held is the lease as last written, nil if that is not known. Usually one update.
func renew(ctx context.Context, api kubernetes.Interface, node *corev1.Node, held *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseEvery)
	defer cancel()
	leases := api.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(time.Now())
	seconds := int32(leaseSeconds)
	if held == nil {
		have, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			fresh := &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: node.Name, Namespace: corev1.NamespaceNodeLease, OwnerReferences: []metav1.OwnerReference{
					{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
			}
			made, err := leases.Create(ctx, fresh, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("create lease of node %s: %w", node.Name, err)
			}
			return made, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read lease of node %s: %w", node.Name, err)
		}
		held = have
	}
	next := held.DeepCopy()
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &node.Name, &seconds, &now
	next.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	written, err := leases.Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renew lease of node %s: %w", node.Name, err)
	}
	return written, nil
}
