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
			at("post", "/wherry/traces /wherry/traces/*"),
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
		// kubeadm:get-nodes: a joining node looks whether its name is taken.
		{name: "wherry:get-nodes", rules: rules{on("get", core, "nodes")}},
		// Bind it to whoever may see the story of every pod.
		{name: "wherry:trace-viewer", rules: rules{at("get", "/wherry/traces /wherry/traces/*")}},
	}
}

func wherryClusterRoleBindings() []binding {
	nodes := subjects{toGroup("system:nodes")}
	joining := subjects{toGroup(pki.BootstrapNodeGroup)}
	return []binding{
		{name: "wherry:node", subjects: nodes},
		{name: "wherry:controller:drain-controller", subjects: subjects{account("kube-system", "drain-controller")}},
		{name: "wherry:controller:certificate-controller", subjects: subjects{account("kube-system", "certificate-controller")}},
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
		// A kube-proxy that runs alone acknowledges under its own identity; nodes are held to their own Lease by the node authorizer.
		{namespace: lifecycle.DrainNamespace, name: "wherry:acknowledge", rules: rules{
			on("create get list watch patch update", "coordination.k8s.io", "leases"),
		}},
	}
}

func wherryNamespaceRoleBindings() []binding {
	return []binding{
		{namespace: "kube-public", name: "wherry:cluster-info", subjects: subjects{toUser("system:anonymous")}},
		{namespace: lifecycle.DrainNamespace, name: "wherry:acknowledge", subjects: subjects{toUser(pki.UserProxy)}},
	}
}
