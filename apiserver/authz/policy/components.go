package policy

// clusterRoles are upstream's for users and for components that are no controllers.
func clusterRoles() []role {
	return []role{
		{name: "admin", gathers: "admin"},
		{name: "cluster-admin", rules: rules{
			on("*", "*", "*"),
			at("*", "*"),
		}},
		{name: "edit", partOf: "admin", gathers: "edit"},
		{name: "system:aggregate-to-admin", partOf: "admin", rules: rules{
			on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
			on(all, "rbac.authorization.k8s.io", "rolebindings roles"),
		}},
		{name: "system:aggregate-to-edit", partOf: "edit", rules: rules{
			on(read, core, "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
			on("impersonate", core, "serviceaccounts"),
			on(change, core, "pods pods/attach pods/exec pods/portforward pods/proxy"),
			on("create", core, "pods/eviction"),
			on(change, core, "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
			on("create", core, "serviceaccounts/token"),
			on(change, coreEvents, "events"),
			on(change, apps, "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
			on(change, "autoscaling", "horizontalpodautoscalers"),
			on(change, "batch", "cronjobs jobs"),
			on(change, "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"),
			on(change, "policy", "poddisruptionbudgets"),
			on(change, "networking.k8s.io", "ingresses networkpolicies"),
			on(all, "coordination.k8s.io", "leases"),
			on(change, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
		}},
		{name: "system:aggregate-to-view", partOf: "view", rules: rules{
			on(read, core, "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"),
			on(read, core, "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"),
			on(read, core, "namespaces"),
			on(read, coreEvents, "events"),
			on(read, "discovery.k8s.io", "endpointslices"),
			on(read, apps, "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
			on(read, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
			on(read, "batch", "cronjobs cronjobs/status jobs jobs/status"),
			on(read, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"),
			on(read, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
			on(read, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
			on(read, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
		}},
		{name: "system:auth-delegator", rules: rules{
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews"),
		}},
		{name: "system:basic-user", rules: rules{
			on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			on("create", "authentication.k8s.io", "selfsubjectreviews"),
		}},
		{name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rules: rules{
			on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient"),
		}},
		{name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rules: rules{
			on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient"),
		}},
		{name: "system:certificates.k8s.io:kube-apiserver-client-approver", rules: rules{
			on("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client"),
		}},
		{name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", rules: rules{
			on("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
		}},
		{name: "system:certificates.k8s.io:kubelet-serving-approver", rules: rules{
			on("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving"),
		}},
		{name: "system:certificates.k8s.io:legacy-unknown-approver", rules: rules{
			on("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown"),
		}},
		{name: "system:cluster-trust-bundle-discovery", rules: rules{
			on(read, "certificates.k8s.io", "clustertrustbundles"),
		}},
		{name: "system:discovery", rules: rules{
			at("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"),
		}},
		{name: "system:heapster", rules: rules{
			on(read, core, "events namespaces nodes pods"),
			on(read, "extensions", "deployments"),
		}},
		{name: "system:kube-aggregator", rules: rules{
			on(read, core, "endpoints services"),
		}},
		{name: "system:kube-controller-manager", rules: rules{
			on(write, coreEvents, "events"),
			on("create", "coordination.k8s.io", "leases"),
			on("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
			on("create", core, "secrets serviceaccounts"),
			on("delete", core, "secrets"),
			on("get", core, "configmaps namespaces secrets serviceaccounts"),
			on("update", core, "secrets serviceaccounts"),
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews"),
			on("list watch", "*", "*"),
			on("create", core, "serviceaccounts/token"),
		}},
		{name: "system:kube-dns", rules: rules{
			on("list watch", core, "endpoints services"),
		}},
		{name: "system:kube-scheduler", rules: rules{
			on(write, coreEvents, "events"),
			on("create", "coordination.k8s.io", "leases"),
			on("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
			on(all, "coordination.k8s.io", "leasecandidates"),
			on(read, core, "nodes"),
			on("delete get list watch", core, "pods"),
			on("create", core, "bindings pods/binding"),
			on(modify, core, "pods/status"),
			on(read, core, "replicationcontrollers services"),
			on(read, "apps extensions", "replicasets"),
			on(read, apps, "statefulsets"),
			on(read, "policy", "poddisruptionbudgets"),
			on(read, core, "persistentvolumeclaims persistentvolumes"),
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews"),
			on(read, "storage.k8s.io", "csinodes"),
			on(read, "storage.k8s.io", "volumeattachments"),
			on(read, core, "namespaces"),
			on(read, "storage.k8s.io", "csidrivers"),
			on(read, "storage.k8s.io", "csistoragecapacities"),
			on(read, "resource.k8s.io", "deviceclasses"),
			on("get list patch update watch", "resource.k8s.io", "resourceclaims"),
			on("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
			on("update", core, "pods/finalizers"),
			on(read, "resource.k8s.io", "resourceslices"),
			on("create delete", "resource.k8s.io", "resourceclaims"),
			on(read, "resource.k8s.io", "devicetaintrules"),
			on(modify, "resource.k8s.io", "resourceclaims/binding"),
		}},
		{name: "system:kubelet-api-admin", rules: rules{
			on(read, core, "nodes"),
			on("proxy", core, "nodes"),
			on("*", core, "nodes/log nodes/metrics nodes/proxy nodes/stats"),
			on("*", core, "nodes/configz nodes/healthz nodes/pods"),
		}},
		{name: "system:monitoring", rules: rules{
			at("get", "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz"),
			on("get", core, "nodes/metrics"),
		}},
		{name: "system:node", rules: rules{
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
			on(read, core, "services"),
			on("create get list watch", core, "nodes"),
			on(modify, core, "nodes/status"),
			on(modify, core, "nodes"),
			on(write, coreEvents, "events"),
			on(read, core, "pods"),
			on("create delete", core, "pods"),
			on(modify, core, "pods/status"),
			on("create", core, "pods/eviction"),
			on(read, core, "configmaps secrets"),
			on("get", core, "persistentvolumeclaims persistentvolumes"),
			on("get", core, "endpoints"),
			on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
			on("create delete get patch update", "coordination.k8s.io", "leases"),
			on("get", "storage.k8s.io", "volumeattachments"),
			on("create", core, "serviceaccounts/token"),
			on("get patch update", core, "persistentvolumeclaims/status"),
			on(read, "storage.k8s.io", "csidrivers"),
			on("create delete get patch update", "storage.k8s.io", "csinodes"),
			on(read, "node.k8s.io", "runtimeclasses"),
			on("get", "resource.k8s.io", "resourceclaims"),
			on("deletecollection", "resource.k8s.io", "resourceslices"),
			on(read, "certificates.k8s.io", "clustertrustbundles"),
			on("get", core, "serviceaccounts"),
			on("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
		}},
		{name: "system:node-bootstrapper", rules: rules{
			on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		}},
		{name: "system:node-problem-detector", rules: rules{
			on("get", core, "nodes"),
			on("patch", core, "nodes/status"),
			on(write, coreEvents, "events"),
		}},
		{name: "system:node-proxier", rules: rules{
			on("list watch", core, "endpoints services"),
			on(read, core, "nodes"),
			on(write, coreEvents, "events"),
			on("list watch", "networking.k8s.io", "servicecidrs"),
			on("list watch", "discovery.k8s.io", "endpointslices"),
		}},
		{name: "system:persistent-volume-provisioner", rules: rules{
			on("create delete get list watch", core, "persistentvolumes"),
			on("get list update watch", core, "persistentvolumeclaims"),
			on(read, "storage.k8s.io", "storageclasses"),
			on("watch", core, "events"),
			on(write, coreEvents, "events"),
		}},
		{name: "system:public-info-viewer", rules: rules{
			at("get", "/healthz /livez /readyz /version /version/"),
		}},
		{name: "system:service-account-issuer-discovery", rules: rules{
			at("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/"),
		}},
		{name: "system:volume-scheduler", rules: rules{
			on("get list patch update watch", core, "persistentvolumes"),
			on(read, "storage.k8s.io", "storageclasses"),
			on("get list patch update watch", core, "persistentvolumeclaims"),
		}},
		{name: "view", partOf: "edit", gathers: "view"},
	}
}

// clusterRoleBindings are upstream's.
func clusterRoleBindings() []binding {
	return []binding{
		{name: "cluster-admin", subjects: subjects{toGroup("system:masters")}},
		{name: "system:basic-user", subjects: subjects{toGroup("system:authenticated")}},
		{name: "system:cluster-trust-bundle-discovery", subjects: subjects{toGroup("system:serviceaccounts")}},
		{name: "system:discovery", subjects: subjects{toGroup("system:authenticated")}},
		{name: "system:kube-controller-manager", subjects: subjects{toUser("system:kube-controller-manager")}},
		{name: "system:kube-dns", subjects: subjects{account("kube-system", "kube-dns")}},
		{name: "system:kube-scheduler", subjects: subjects{toUser("system:kube-scheduler")}},
		{name: "system:monitoring", subjects: subjects{toGroup("system:monitoring")}},
		{name: "system:node"}, // bound to nobody: the node authorizer decides
		{name: "system:node-proxier", subjects: subjects{toUser("system:kube-proxy")}},
		{name: "system:public-info-viewer", subjects: subjects{toGroup("system:authenticated"), toGroup("system:unauthenticated")}},
		{name: "system:service-account-issuer-discovery", subjects: subjects{toGroup("system:serviceaccounts")}},
		{name: "system:volume-scheduler", subjects: subjects{toUser("system:kube-scheduler")}},
	}
}

// namespaceRoles are upstream's in kube-system and kube-public.
func namespaceRoles() []role {
	const electing = "create get list update watch"
	return []role{
		{namespace: "kube-public", name: "system:controller:bootstrap-signer", rules: rules{
			on(read, core, "configmaps"),
			on("update", core, "configmaps", "cluster-info"),
			on(write, coreEvents, "events"),
		}},
		{namespace: "kube-system", name: "extension-apiserver-authentication-reader", rules: rules{
			on(read, core, "configmaps", "extension-apiserver-authentication"),
		}},
		{namespace: "kube-system", name: "system::leader-locking-kube-controller-manager", rules: rules{
			on(electing, "coordination.k8s.io", "leases"),
			on(electing, "coordination.k8s.io", "leasecandidates"),
		}},
		{namespace: "kube-system", name: "system::leader-locking-kube-scheduler", rules: rules{
			on(electing, "coordination.k8s.io", "leases"),
			on(electing, "coordination.k8s.io", "leasecandidates"),
		}},
		{namespace: "kube-system", name: "system:controller:bootstrap-signer", rules: rules{
			on(read, core, "secrets"),
		}},
		{namespace: "kube-system", name: "system:controller:cloud-provider", rules: rules{
			on("create get list watch", core, "configmaps"),
		}},
		{namespace: "kube-system", name: "system:controller:token-cleaner", rules: rules{
			on("delete get list watch", core, "secrets"),
			on(write, coreEvents, "events"),
		}},
	}
}

func namespaceRoleBindings() []binding {
	const controllerManager, scheduler = "system:kube-controller-manager", "system:kube-scheduler"
	return []binding{
		{namespace: "kube-public", name: "system:controller:bootstrap-signer", subjects: subjects{account("kube-system", "bootstrap-signer")}},
		{namespace: "kube-system", name: "system::extension-apiserver-authentication-reader", role: "extension-apiserver-authentication-reader",
			subjects: subjects{toUser(controllerManager), toUser(scheduler)}},
		{namespace: "kube-system", name: "system::leader-locking-kube-controller-manager", subjects: subjects{
			toUser(controllerManager), account("kube-system", "kube-controller-manager"), account("kube-system", "leader-election-controller")}},
		{namespace: "kube-system", name: "system::leader-locking-kube-scheduler", subjects: subjects{
			toUser(scheduler), account("kube-system", "kube-scheduler")}},
		{namespace: "kube-system", name: "system:controller:bootstrap-signer", subjects: subjects{account("kube-system", "bootstrap-signer")}},
		{namespace: "kube-system", name: "system:controller:cloud-provider", subjects: subjects{account("kube-system", "cloud-provider")}},
		{namespace: "kube-system", name: "system:controller:token-cleaner", subjects: subjects{account("kube-system", "token-cleaner")}},
	}
}
