package kinds

import "k8s.io/apimachinery/pkg/runtime/schema"

// All returns every built-in kind that is served, one line each, in discovery order: groups by upstream's priority,
// within a group by resource name. The caller owns the slice; the Kinds are shared and immutable.
func All() []*Kind {
	return []*Kind{
		// core/v1
		Bindings(),
		ComponentStatuses(),
		ConfigMaps(),
		Endpoints(),
		Events(),
		LimitRanges(),
		Namespaces(),
		Nodes(),
		PersistentVolumeClaims(),
		PersistentVolumes(),
		Pods(),
		PodTemplates(),
		ReplicationControllers(),
		ResourceQuotas(),
		Secrets(),
		ServiceAccounts(),
		Services(),
		// apiregistration.k8s.io/v1
		APIServices(),
		// apps/v1
		ControllerRevisions(),
		DaemonSets(),
		Deployments(),
		ReplicaSets(),
		StatefulSets(),
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
		// autoscaling/v2, autoscaling/v1
		HorizontalPodAutoscalers(),
		HorizontalPodAutoscalersV1(),
		// batch/v1
		CronJobs(),
		Jobs(),
		// apiextensions.k8s.io/v1
		CustomResourceDefinitions(),
		// certificates.k8s.io/v1
		CertificateSigningRequests(),
		ClusterTrustBundles(),
		PodCertificateRequests(),
		// networking.k8s.io/v1
		IngressClasses(),
		Ingresses(),
		IPAddresses(),
		NetworkPolicies(),
		ServiceCIDRs(),
		// policy/v1
		PodDisruptionBudgets(),
		// rbac.authorization.k8s.io/v1
		ClusterRoleBindings(),
		ClusterRoles(),
		RoleBindings(),
		Roles(),
		// storage.k8s.io/v1
		CSIDrivers(),
		CSINodes(),
		CSIStorageCapacities(),
		StorageClasses(),
		VolumeAttachments(),
		VolumeAttributesClasses(),
		// admissionregistration.k8s.io/v1
		MutatingAdmissionPolicies(),
		MutatingAdmissionPolicyBindings(),
		MutatingWebhookConfigurations(),
		ValidatingAdmissionPolicies(),
		ValidatingAdmissionPolicyBindings(),
		ValidatingWebhookConfigurations(),
		// scheduling.k8s.io/v1
		PriorityClasses(),
		// coordination.k8s.io/v1
		Leases(),
		// node.k8s.io/v1
		RuntimeClasses(),
		// discovery.k8s.io/v1
		EndpointSlices(),
		// flowcontrol.apiserver.k8s.io/v1
		FlowSchemas(),
		PriorityLevelConfigurations(),
		// resource.k8s.io/v1
		DeviceClasses(),
		DeviceTaintRules(),
		ResourceClaims(),
		ResourceClaimTemplates(),
		ResourceSlices(),
		// storagemigration.k8s.io/v1
		StorageVersionMigrations(),
	}
}

// Served returns a function that says whether a resource is among those of list.
func Served(list []*Kind) func(schema.GroupVersionResource) bool {
	served := make(map[schema.GroupVersionResource]bool, len(list))
	for _, k := range list {
		served[k.GroupVersionResource()] = true
	}
	return func(gvr schema.GroupVersionResource) bool { return served[gvr] }
}

// StoredInNamespaces returns the resources of list that are stored in namespaces, each in the version in which it is stored.
func StoredInNamespaces(list []*Kind) (resources []schema.GroupVersionResource) {
	for _, k := range list {
		if k.Namespaced && k.StoragePrefix != "" && k.Hub == nil {
			resources = append(resources, k.GroupVersionResource())
		}
	}
	return resources
}
