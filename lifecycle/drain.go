package lifecycle

// The drain protocol (D2 to D4) in the API's own terms; every party speaks plain Kubernetes objects.
//
//  1. The EndpointSlice controller marks the deleted pod's endpoint terminating and not ready (D2).
//  2. Each node's proxy and DNS, once an EndpointSlice event in which an endpoint became terminating is in the
//     kernel, write the highest EndpointSlice resourceVersion they have reached into ProgrammedAnnotation of the
//     node's Lease DrainLeasePrefix+node in DrainNamespace (D3). Batched; nothing is written when nothing leaves.
//  3. The drain controller sets the pod condition DrainedCondition to True once every live node has
//     reached the revision at which the last of the pod's slices marked it.
//  4. The kubelet, for a pod that was Ready and that some Service selects, begins D4 when it sees that
//     condition, or after the bounded wait.
const (
	// DrainNamespace holds the per-node Leases that carry acknowledgements.
	DrainNamespace = "wherry-system"
	// DrainLeasePrefix precedes the node's name in the name of its acknowledgement Lease.
	DrainLeasePrefix = "endpoints-"
	// ProgrammedAnnotation is the decimal EndpointSlice resourceVersion which the node's kernel and DNS have reached.
	ProgrammedAnnotation = "network.wherry.dev/programmed-revision"
	// DrainedCondition is the pod condition that tells the kubelet that no node sends new connections to the pod.
	DrainedCondition = "network.wherry.dev/Drained"
)
