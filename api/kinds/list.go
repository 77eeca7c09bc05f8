package kinds

// All returns every built-in kind that is served, one line each, in discovery order: groups by upstream's priority,
// within a group by resource name. The caller owns the slice; the Kinds are shared and immutable.
func All() []*Kind {
	return []*Kind{
		// core/v1
		Bindings(),
		ConfigMaps(),
		Endpoints(),
		Events(),
		Namespaces(),
		Nodes(),
		Pods(),
		Secrets(),
		ServiceAccounts(),
		Services(),
		// events.k8s.io/v1
		NewEvents(),
		// authentication.k8s.io/v1
		SelfSubjectReviews(),
		TokenReviews(),
		// authorization.k8s.io/v1
		LocalSubjectAccessReviews(),
		SelfSubjectAccessReviews(),
		SelfSubjectRulesReviews(),
		SubjectAccessReviews(),
		// certificates.k8s.io/v1
		CertificateSigningRequests(),
		// policy/v1
		PodDisruptionBudgets(),
		// rbac.authorization.k8s.io/v1
		ClusterRoleBindings(),
		ClusterRoles(),
		RoleBindings(),
		Roles(),
		// scheduling.k8s.io/v1
		PriorityClasses(),
		// coordination.k8s.io/v1
		Leases(),
		// node.k8s.io/v1
		RuntimeClasses(),
		// discovery.k8s.io/v1
		EndpointSlices(),
	}
}
