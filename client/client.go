// Package client is all that a part sees of the cluster: a clientset and shared informers, over HTTP/2 with protobuf
// when the API server is elsewhere, in process when it is here. Parts take a Set and never ask which it is.
package client

import (
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Set is one identity's view of the API. Safe for concurrent use.
type Set struct {
	// Kubernetes reads and writes as this identity. Objects it returns belong to the caller.
	Kubernetes kubernetes.Interface
	// Informers are shared by the whole process's parts of this identity; in process their objects are the watch
	// cache's own. Objects from listers and handlers are immutable, always.
	Informers informers.SharedInformerFactory
	// Config is for the few calls a clientset cannot make (exec streams, raw paths). In process its transport goes straight into the request path.
	Config *rest.Config
}
