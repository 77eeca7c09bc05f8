package authz

import (
	"context"
	"fmt"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/apiserver/authz/policy"
	"wherry.dev/wherry/lifecycle"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
	leaseNamespace = "kube-node-lease"
)

// nodeName returns the node that a user is; ok is false for others. The name is empty when the user is in the nodes'
// group's form but names no node.
func nodeName(who user.Info) (name string, ok bool) {
	name, ok = strings.CutPrefix(who.GetName(), nodeUserPrefix)
	if !ok {
		return "", false
	}
	for _, group := range who.GetGroups() {
		if group == nodesGroup {
			return name, true
		}
	}
	return "", false
}

// NodeName returns the name of the node that who is; ok is false for anybody else (upstream's NodeIdentifier).
func NodeName(who user.Info) (name string, ok bool) { return nodeName(who) }

// nodeRules are what a node may do whatever runs on it; what depends on its pods is decided by the graph.
func nodeRules() []rbacv1.PolicyRule {
	for _, role := range policy.Default().ClusterRoles {
		if role.Name == "system:node" {
			return role.Rules
		}
	}
	return nil
}

// authorize decides for a node (upstream's Node authorizer; KEP-4601 for the selectors). It never denies; a reason
// without permission says what the node lacks.
func (g *graph) authorize(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", a.GetUser().GetName())
	}
	if !a.IsResourceRequest() {
		return g.byRules(a)
	}
	verb, sub := a.GetVerb(), a.GetSubresource()
	switch a.GetAPIGroup() {
	case "":
		switch a.GetResource() {
		case "secrets":
			return g.readNamespaced(node, secretObject, a)
		case "configmaps":
			return g.readNamespaced(node, configMapObject, a)
		case "persistentvolumeclaims":
			if sub == "status" {
				if verb != "update" && verb != "patch" {
					return no("can only get/update/patch this type")
				}
				return g.related(node, claimObject, a)
			}
			return g.getOne(node, claimObject, a)
		case "persistentvolumes":
			return g.getOne(node, volumeObject, a)
		case "serviceaccounts":
			return g.serviceAccount(node, a)
		case "nodes":
			return nodeItself(node, a)
		case "pods":
			return g.pod(node, a)
		}
	case "storage.k8s.io":
		switch a.GetResource() {
		case "volumeattachments":
			return g.getOne(node, attachmentObject, a)
		case "csinodes":
			if sub != "" {
				return no("cannot authorize CSINode subresources")
			}
			if !isOneOf(verb, "get", "create", "update", "patch", "delete") {
				return no("can only get, create, update, patch, or delete a CSINode")
			}
			if verb != "create" && a.GetName() != node {
				return no("can only access CSINode with the same name as the requesting node")
			}
			return yes()
		}
	case "resource.k8s.io":
		switch a.GetResource() {
		case "resourceclaims":
			return g.getOne(node, resourceClaimObject, a)
		case "resourceslices":
			return resourceSlice(node, a)
		}
	case "coordination.k8s.io":
		if a.GetResource() == "leases" {
			return lease(node, a)
		}
	case "certificates.k8s.io":
		if a.GetResource() == "podcertificaterequests" {
			return podCertificateRequest(node, a)
		}
	}
	return g.byRules(a)
}

func yes() (authorizer.Decision, string)             { return authorizer.DecisionAllow, "" }
func no(reason string) (authorizer.Decision, string) { return authorizer.DecisionNoOpinion, reason }

func isOneOf(value string, list ...string) bool { return contains(list, value, value) }

// byRules decides what does not depend on the node's pods.
func (g *graph) byRules(a authorizer.Attributes) (authorizer.Decision, string) {
	combined := a.GetResource()
	if a.GetSubresource() != "" {
		combined += "/" + a.GetSubresource()
	}
	for i := range g.rules {
		if ruleAllows(&g.rules[i], a, combined, a.GetSubresource()) {
			return yes()
		}
	}
	return no("")
}

func (g *graph) related(node string, kind objectKind, a authorizer.Attributes) (authorizer.Decision, string) {
	if a.GetName() == "" {
		return no("No Object name found")
	}
	if !g.reaches(node, object{kind, a.GetNamespace(), a.GetName()}) {
		return no(noRelationship + fmt.Sprintf(" between node '%s' and this object", node))
	}
	return yes()
}

// noRelationship begins the reason when only the graph stands in the way.
const noRelationship = "no relationship found"

// catchUp bounds how long a node waits for the graph to learn of a pod that the node has learned of already.
const catchUp = 500 * time.Millisecond

// authorizeNode is authorize, but gives the graph a moment: a kubelet may ask for a pod's Secrets before the pod's binding, which
// both learn from the same watch cache, has come to the graph.
func (g *graph) authorizeNode(ctx context.Context, node string, a authorizer.Attributes) (authorizer.Decision, string) {
	grown := g.next()
	decision, reason := g.authorize(node, a)
	if decision == authorizer.DecisionAllow || !strings.HasPrefix(reason, noRelationship) {
		return decision, reason
	}
	limit := time.NewTimer(catchUp)
	defer limit.Stop()
	for {
		select {
		case <-grown:
		case <-limit.C:
			return decision, reason
		case <-ctx.Done():
			return decision, reason
		}
		grown = g.next()
		if decision, reason = g.authorize(node, a); decision == authorizer.DecisionAllow {
			return decision, reason
		}
	}
}

func (g *graph) getOne(node string, kind objectKind, a authorizer.Attributes) (authorizer.Decision, string) {
	switch {
	case a.GetVerb() != "get":
		return no("can only get individual resources of this type")
	case a.GetSubresource() != "":
		return no("cannot get subresource")
	}
	return g.related(node, kind, a)
}

// readNamespaced allows get, and list and watch of a single name.
func (g *graph) readNamespaced(node string, kind objectKind, a authorizer.Attributes) (authorizer.Decision, string) {
	switch {
	case !isOneOf(a.GetVerb(), "get", "list", "watch"):
		return no("can only read resources of this type")
	case a.GetSubresource() != "":
		return no("cannot read subresource")
	case a.GetNamespace() == "":
		return no("can only read namespaced object of this type")
	}
	return g.related(node, kind, a)
}

func (g *graph) serviceAccount(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	switch {
	case a.GetVerb() == "get" && a.GetSubresource() == "":
		return g.readNamespaced(node, accountObject, a)
	case a.GetVerb() != "create" || a.GetName() == "":
		return no("can only create tokens for individual service accounts")
	case a.GetSubresource() != "token":
		return no("can only create token subresource of serviceaccount")
	}
	return g.related(node, accountObject, a)
}

// lease allows the node's heartbeat in kube-node-lease and its acknowledgement of drained endpoints (lifecycle/drain.go).
// The name of what is created is not known here; NodeRestriction checks it.
func lease(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	if !isOneOf(a.GetVerb(), "get", "create", "update", "patch", "delete") {
		return no("can only get, create, update, patch, or delete a node lease")
	}
	own := node
	switch a.GetNamespace() {
	case leaseNamespace:
	case lifecycle.DrainNamespace:
		own = lifecycle.DrainLeasePrefix + node
	default:
		return no(fmt.Sprintf("can only access leases in the %q system namespace", leaseNamespace))
	}
	if a.GetVerb() != "create" && a.GetName() != own {
		return no("can only access node lease with the same name as the requesting node")
	}
	return yes()
}

func resourceSlice(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	if a.GetSubresource() != "" {
		return no("cannot authorize ResourceSlice subresources")
	}
	switch a.GetVerb() {
	case "create", "get", "update", "patch", "delete":
		return yes() // NodeRestriction holds the node to its own
	case "watch", "list", "deletecollection":
		if selects(a, "spec.nodeName", node) {
			return yes()
		}
		return no("can only list/watch/deletecollection resourceslices with nodeName field selector")
	}
	return no("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection")
}

// podCertificateRequest allows a node to ask for its pods' certificates, and to follow what it asked for.
func podCertificateRequest(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	if a.GetSubresource() != "" {
		return no("nodes may not access the status subresource of PodCertificateRequests")
	}
	switch a.GetVerb() {
	case "create":
		return yes() // NodeRestriction holds it to its own pods
	case "list", "watch":
		if selects(a, "spec.nodeName", node) {
			return yes()
		}
		return no("can only list/watch podcertificaterequests with nodeName field selector")
	}
	return no(fmt.Sprintf("nodes may not %s podcertificaterequests", a.GetVerb()))
}

// nodeItself allows a node to see and to write its own Node.
func nodeItself(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "create", "update", "patch":
			return yes() // NodeRestriction holds it to its own
		case "get", "list", "watch":
			// all three verbs name their object: list and watch by the field selector metadata.name
			if a.GetName() == node || a.GetName() == "" && selects(a, "metadata.name", node) {
				return yes()
			}
			return no(fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, a.GetName()))
		}
		return no("")
	case "status":
		if isOneOf(a.GetVerb(), "update", "patch") {
			return yes()
		}
		return no("")
	}
	return no("")
}

// pod allows a node to see the pods bound to it, and what the kubelet does with pods.
func (g *graph) pod(node string, a authorizer.Attributes) (authorizer.Decision, string) {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "get":
			return g.related(node, podObject, a)
		case "list", "watch":
			if selects(a, "spec.nodeName", node) {
				return yes()
			}
			if a.GetName() != "" {
				return g.related(node, podObject, a)
			}
			return no("can only list/watch pods with spec.nodeName field selector")
		case "create", "delete":
			return yes() // NodeRestriction: mirror pods, pods of its own
		}
		return no("")
	case "status":
		if isOneOf(a.GetVerb(), "update", "patch") {
			return yes() // NodeRestriction: pods of its own
		}
		return no("")
	case "eviction":
		if a.GetVerb() == "create" {
			return yes() // NodeRestriction: pods of its own
		}
		return no("")
	}
	return no("")
}

// selects says whether the request's field selector requires field to be value.
func selects(a authorizer.Attributes, field, value string) bool {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == field && (r.Operator == "=" || r.Operator == "==") && r.Value == value {
			return true
		}
	}
	return false
}
