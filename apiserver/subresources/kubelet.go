package subresources

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"wherry.dev/wherry/apiserver/verbs"
	"wherry.dev/wherry/apiserver/wire"
)

// kubeletPort is where kubelets listen unless their node says otherwise.
const kubeletPort = 10250

// newTransport makes connections that authenticate as tc says. They are kept for a while, and not shared over HTTP/2,
// because upgraded connections need one each.
func newTransport(tc *tls.Config, timeout time.Duration) *http.Transport {
	if tc != nil {
		tc = tc.Clone()
		tc.NextProtos = []string{"http/1.1"}
	}
	return &http.Transport{TLSClientConfig: tc, DialContext: (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: timeout, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4, DisableCompression: true}
}

// addressOrder is in which order a node's addresses are tried: those that need no name resolution first.
var addressOrder = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS}

// kubelet returns the host and port of a node's kubelet.
func (s *Set) kubelet(ctx context.Context, name string) (string, error) {
	nodes := s.config.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	if nodes == nil {
		return "", apierrors.NewInternalError(fmt.Errorf("nodes are not served"))
	}
	o, err := nodes.Store.Get(ctx, "", name, "0")
	if err != nil {
		return "", err
	}
	node, ok := o.Object.(*corev1.Node)
	if !ok {
		return "", apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", o.Object))
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = kubeletPort
	}
	for _, typ := range addressOrder {
		for _, a := range node.Status.Addresses {
			if a.Type == typ && a.Address != "" {
				return net.JoinHostPort(a.Address, strconv.Itoa(port)), nil
			}
		}
	}
	return "", apierrors.NewInternalError(fmt.Errorf("no preferred addresses found for node %q; known addresses: %v", name, node.Status.Addresses))
}

// pod reads the pod that a request is about.
func (s *Set) pod(ctx context.Context, pods *verbs.Served, r *verbs.Request) (*corev1.Pod, error) {
	o, err := pods.Store.Get(ctx, r.Info.Namespace, r.Info.Name, "")
	if err != nil {
		return nil, err
	}
	p, ok := o.Object.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", o.Object))
	}
	return p, nil
}

// containerOf returns the container that a request means: the one it names, or the only one.
func containerOf(p *corev1.Pod, name string) (string, error) {
	if name == "" {
		if len(p.Spec.Containers) == 1 {
			return p.Spec.Containers[0].Name, nil
		}
		var names []string
		for _, c := range p.Spec.Containers {
			names = append(names, c.Name)
		}
		msg := fmt.Sprintf("a container name must be specified for pod %s", p.Name)
		if len(names) > 0 {
			msg += fmt.Sprintf(", choose one of: %s", bracket(names))
		}
		var inits []string
		for _, c := range p.Spec.InitContainers {
			inits = append(inits, c.Name)
		}
		if len(inits) > 0 {
			msg += fmt.Sprintf(" or one of the init containers: %s", bracket(inits))
		}
		return "", apierrors.NewBadRequest(msg)
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return name, nil
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name))
}

func bracket(names []string) string { return "[" + strings.Join(names, " ") + "]" }

// boolean reads a query parameter as upstream does: there and not false or 0.
func boolean(q url.Values, name string) bool {
	v, ok := q[name]
	if !ok || len(v) == 0 {
		return false
	}
	switch strings.ToLower(v[0]) {
	case "false", "0":
		return false
	}
	return true
}

// responder answers when a proxied connection fails.
type responder struct{}

// Error implements the proxy package's ErrorResponder.
func (responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	var status apierrors.APIStatus
	if !asStatus(err, &status) {
		err = &apierrors.StatusError{ErrStatus: *wire.StatusOf(apierrors.NewServiceUnavailable("error trying to reach service: " + err.Error()))}
	}
	wire.WriteError(w, r, err)
}
