// Package scheme holds the one runtime.Scheme of the process: client-go's, which registers every built-in type, so that
// objects can travel between the API server, the store and in-process clients without conversion.
package scheme

import (
	"k8s.io/client-go/kubernetes/scheme"
)

var (
	// Scheme knows every built-in group and version, and metav1's types in each of them. Immutable after start.
	Scheme = scheme.Scheme
	// Codecs makes serializers for the Scheme: JSON, YAML, protobuf.
	Codecs = scheme.Codecs
	// ParameterCodec converts query parameters to option types.
	ParameterCodec = scheme.ParameterCodec
)
