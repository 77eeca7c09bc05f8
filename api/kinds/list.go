package kinds

// All returns every built-in kind that is served, one line each, in discovery order (group, then name as upstream lists them).
// The caller owns the slice; the Kinds are shared and immutable.
func All() []*Kind {
	return []*Kind{
		// core/v1
		ConfigMaps(),
		Endpoints(),
		Events(),
		Namespaces(),
		Nodes(),
		Pods(),
		Secrets(),
		ServiceAccounts(),
		Services(),
		// discovery.k8s.io/v1
		EndpointSlices(),
		// events.k8s.io/v1
		NewEvents(),
		// coordination.k8s.io/v1
		Leases(),
	}
}
