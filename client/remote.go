package client

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Remote returns a Set that reaches the API server of cfg over HTTP/2: protobuf where a type has it, no client-side rate
// limit (the server is fair to its clients), one connection for all. cfg is copied. The informers are not started:
// parts ask for theirs and call Informers.Start.
func Remote(cfg *rest.Config) (*Set, error) {
	c := rest.CopyConfig(cfg)
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.QPS, c.Burst, c.RateLimiter = -1, 0, nil
	http, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", c.Host, err)
	}
	cs, err := kubernetes.NewForConfigAndClient(c, http)
	if err != nil {
		return nil, fmt.Errorf("client for %s: %w", c.Host, err)
	}
	return &Set{Kubernetes: cs, Informers: informers.NewSharedInformerFactory(cs, 0), Config: c}, nil
}
