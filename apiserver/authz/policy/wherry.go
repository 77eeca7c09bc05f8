package policy

import (
	"wherry.dev/wherry/lifecycle"
	"wherry.dev/wherry/pki"
)

// wherryClusterRoles are what Wherry's own parts need beyond upstream's roles.
func wherryClusterRoles() []role {
	return []role{
		// A node runs the proxy, DNS and the pod routes under its own identity, and sends its spans to the server.
		{name: "wherry:node", rules: rules{
			on(read, core, "namespaces nodes services endpoints"),
			on(read, "discovery.k8s.io", "endpointslices"),
			on(read, "networking.k8s.io", "servicecidrs networkpolicies ingresses ingressclasses"),
			on("create", "trace.wherry.dev", "spans"),
		}},
		// D3: reads the nodes' acknowledgements and puts the Drained condition on pods.
		{name: "wherry:controller:drain-controller", rules: rules{
			on(read, core, "pods nodes services"),
			on(read, "discovery.k8s.io", "endpointslices"),
			on(read, "coordination.k8s.io", "leases"),
			on(modify, core, "pods/status"),
			on(write, coreEvents, "events"),
		}},
		// Upstream leaves kubelet serving certificates to the administrator; Wherry approves those whose names and
		// addresses are the node's own.
		{name: "wherry:controller:certificate-controller", rules: rules{
			on(read, core, "nodes"),
			on("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving"),
		}},
		// Upstream's service-account, root-ca-cert-publisher and tokens controllers are one here.
		{name: "wherry:controller:service-account-controller", rules: rules{
			on("create update", core, "configmaps"),
			on("get update patch delete", core, "secrets"),
			on("get", core, "serviceaccounts"),
		}},
		// kubeadm:get-nodes: a joining node looks whether its name is taken.
		{name: "wherry:get-nodes", rules: rules{on("get", core, "nodes")}},
		// Who may view a namespace may read the story of its pods.
		{name: "wherry:trace-viewer", partOf: "view", rules: rules{on("get", "trace.wherry.dev", "pods")}},
	}
}

func wherryClusterRoleBindings() []binding {
	nodes := subjects{toGroup("system:nodes")}
	joining := subjects{toGroup(pki.BootstrapNodeGroup)}
	return []binding{
		{name: "wherry:node", subjects: nodes},
		{name: "wherry:controller:drain-controller", subjects: subjects{account("kube-system", "drain-controller")}},
		{name: "wherry:controller:certificate-controller", subjects: subjects{account("kube-system", "certificate-controller")}},
		{name: "wherry:controller:service-account-controller", subjects: subjects{account("kube-system", "service-account-controller")}},
		{name: "wherry:get-nodes", subjects: joining},
		{name: "wherry:kubelet-bootstrap", role: "system:node-bootstrapper", subjects: joining},
		{name: "wherry:node-autoapprove-bootstrap", role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient", subjects: joining},
		{name: "wherry:node-autoapprove-certificate-rotation", role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", subjects: nodes},
		{name: "wherry:apiserver-kubelet-client", role: "system:kubelet-api-admin", subjects: subjects{toUser(pki.UserKubeletClient)}},
	}
}

func wherryNamespaceRoles() []role {
	return []role{
		// The public half of joining: a node reads the authority and its signature before it has any credential.
		{namespace: "kube-public", name: "wherry:cluster-info", rules: rules{on("get", core, "configmaps", "cluster-info")}},
		// A node reads the cluster's addresses when it joins.
		{namespace: lifecycle.DrainNamespace, name: "wherry:network", rules: rules{on("get", core, "configmaps", "network")}},
		// Every node answers names as the Corefile says.
		{namespace: "kube-system", name: "wherry:corefile", rules: rules{on(read, core, "configmaps", "coredns")}},
		// A kube-proxy that runs alone acknowledges under its own identity; nodes are held to their own Lease by the node authorizer.
		{namespace: lifecycle.DrainNamespace, name: "wherry:acknowledge", rules: rules{
			on("create get list watch patch update", "coordination.k8s.io", "leases"),
		}},
	}
}

func wherryNamespaceRoleBindings() []binding {
	return []binding{
		{namespace: "kube-public", name: "wherry:cluster-info", subjects: subjects{toUser("system:anonymous")}},
		// Upstream's bootstrap signer and token cleaner are one here.
		{namespace: "kube-system", name: "wherry:token-cleaner", role: "system:controller:token-cleaner", subjects: subjects{account("kube-system", "bootstrap-signer")}},
		{namespace: "kube-system", name: "wherry:corefile", subjects: subjects{toGroup("system:nodes")}},
		{namespace: lifecycle.DrainNamespace, name: "wherry:network", subjects: subjects{toGroup("system:nodes")}},
		{namespace: lifecycle.DrainNamespace, name: "wherry:acknowledge", subjects: subjects{toUser(pki.UserProxy)}},
	}
}
