package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// data writes the addresses as the ConfigMap that nodes read.
func (n Network) data() map[string]string {
	return map[string]string{
		"pod-cidr": n.PodCIDR.String(), "service-cidr": n.ServiceCIDR.String(), "cluster-dns": n.ClusterDNS.String(), "cluster-domain": n.ClusterDomain,
	}
}

func parseNetwork(data map[string]string) (n Network, err error) {
	if n.PodCIDR, err = netip.ParsePrefix(data["pod-cidr"]); err != nil {
		return n, fmt.Errorf("the cluster's pod range: %w", err)
	}
	if n.ServiceCIDR, err = netip.ParsePrefix(data["service-cidr"]); err != nil {
		return n, fmt.Errorf("the cluster's service range: %w", err)
	}
	if n.ClusterDNS, err = netip.ParseAddr(data["cluster-dns"]); err != nil {
		return n, fmt.Errorf("the cluster's DNS address: %w", err)
	}
	n.ClusterDomain = data["cluster-domain"]
	return n, nil
}

// seedNetwork publishes the addresses. A server that is started with others than the cluster was made with refuses: pods and
// Services that exist would be cut off.
func (c *controlPlane) seedNetwork(ctx context.Context) error {
	configMaps := c.masters.Kubernetes.CoreV1().ConfigMaps(networkNamespace)
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: networkNamespace, Name: networkName}, Data: c.settings.Network.data()}
	_, err := configMaps.Create(ctx, want, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("publish the cluster's addresses: %w", err)
		}
		return nil
	}
	have, err := configMaps.Get(ctx, networkName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read the cluster's addresses: %w", err)
	}
	if !maps.Equal(have.Data, want.Data) {
		return fmt.Errorf("the cluster was made with other addresses (%v): start the server with those", have.Data)
	}
	return nil
}
