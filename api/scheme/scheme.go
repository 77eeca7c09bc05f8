// Package scheme holds the one runtime.Scheme of the process: client-go's, which registers every built-in type, so that
// objects can travel between the API server, the store and in-process clients without conversion.
package scheme

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

var (
	// Scheme knows every built-in group and version, and metav1's types in each of them. Immutable after start.
	Scheme = withExtensions(scheme.Scheme)
	// Codecs makes serializers for the Scheme: JSON, YAML, protobuf.
	Codecs = scheme.Codecs
	// ParameterCodec converts query parameters to option types.
	ParameterCodec = scheme.ParameterCodec
)

// withExtensions registers what is not among client-go's types: CustomResourceDefinitions and APIServices.
func withExtensions(s *runtime.Scheme) *runtime.Scheme {
	utilruntime.Must(apiextensionsv1.AddToScheme(s))
	utilruntime.Must(apiregistrationv1.AddToScheme(s))
	return s
}
