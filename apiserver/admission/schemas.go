package admission

import (
	"sync"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/openapi"
)

// schemaReader is a client that tells when the list of schemas has been asked for once, whatever came of it: mutating policies change objects by
// schemas, which their plugin begins to read when it is made, and refuses to change what it has no schema of.
type schemaReader struct {
	kubernetes.Interface
	asked func()
}

// newSchemaReader returns the client, and a channel that is closed once the list has been asked for.
func newSchemaReader(c kubernetes.Interface) (kubernetes.Interface, <-chan struct{}) {
	asked := make(chan struct{})
	return &schemaReader{Interface: c, asked: sync.OnceFunc(func() { close(asked) })}, asked
}

// Discovery implements kubernetes.Interface.
func (r *schemaReader) Discovery() discovery.DiscoveryInterfaces {
	return &schemaDiscovery{DiscoveryInterfaces: r.Interface.Discovery(), asked: r.asked}
}

type schemaDiscovery struct {
	discovery.DiscoveryInterfaces
	asked func()
}

// OpenAPIV3 implements discovery.OpenAPIV3SchemaInterface.
func (d *schemaDiscovery) OpenAPIV3() openapi.Client {
	return &schemaList{Client: d.DiscoveryInterfaces.OpenAPIV3(), asked: d.asked}
}

type schemaList struct {
	openapi.Client
	asked func()
}

// Paths implements openapi.Client.
func (l *schemaList) Paths() (map[string]openapi.GroupVersion, error) {
	defer l.asked()
	return l.Client.Paths()
}
