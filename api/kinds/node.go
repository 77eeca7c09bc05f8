package kinds

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// Nodes is core/v1 nodes. Upstream stored them as "minions" before they had their name, and still does.
func Nodes() *Kind {
	return &Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Node"),
		Plural:           "nodes",
		Singular:         "node",
		ShortNames:       []string{"no"},
		Verbs:            all,
		New:              func() runtime.Object { return new(corev1.Node) },
		NewList:          func() runtime.Object { return new(corev1.NodeList) },
		StoragePrefix:    "minions",
		Default:          defaulting(defaultNode),
		PrepareForCreate: onCreate(func(n *corev1.Node) { n.Spec.ConfigSource = nil }),
		PrepareForUpdate: onUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
			if old.Spec.ConfigSource == nil {
				n.Spec.ConfigSource = nil
			}
		}),
		Validate:       checking(validateNode),
		ValidateUpdate: checkingUpdate(validateNodeUpdate),
		Warnings:       warningsOf(func(n, _ *corev1.Node) []string { return warnNode(n) }),
		ValidateName:   NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs: viewVerbs,
				PrepareForUpdate: onUpdate(func(n, old *corev1.Node) {
					n.Spec = old.Spec
					if old.Status.Config == nil {
						n.Status.Config = nil
					}
				}),
				ValidateUpdate: checkingUpdate(validateNodeChange),
			},
		},
		ConnectSubresources: []SubresourceInfo{
			{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: proxyVerbs},
		},
		FieldLabels: []string{"metadata.name", "spec.unschedulable"},
		SelectableFields: selecting(func(n *corev1.Node) fields.Set {
			set := metaFields(&n.ObjectMeta, false, 1)
			set["spec.unschedulable"] = boolWord(n.Spec.Unschedulable)
			return set
		}),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "The status of the node"),
			column("Roles", "string", "The roles of the node"),
			ageColumn(),
			column("Version", "string", corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
			wideColumn("Internal-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			wideColumn("External-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			wideColumn("OS-Image", "string", corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"]),
			wideColumn("Kernel-Version", "string", corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"]),
			wideColumn("Container-Runtime", "string", corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"]),
		},
		Row: row(func(n *corev1.Node, now time.Time) []any {
			info := &n.Status.NodeInfo
			return []any{
				n.Name, nodeStatusWord(n), orNone(strings.Join(nodeRoles(n), ",")), age(n.CreationTimestamp, now), info.KubeletVersion,
				orNone(nodeAddress(n, corev1.NodeInternalIP)), orNone(nodeAddress(n, corev1.NodeExternalIP)),
				orUnknown(info.OSImage), kernelWord(info), orUnknown(info.ContainerRuntimeVersion),
			}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultNode(n *corev1.Node) {
	normalizePodCIDRs(&n.Spec)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = make(corev1.ResourceList, len(n.Status.Capacity))
		for name, quantity := range n.Status.Capacity {
			n.Status.Allocatable[name] = quantity.DeepCopy()
		}
	}
	roundToMilli(n.Status.Capacity)
	roundToMilli(n.Status.Allocatable)
}

// normalizePodCIDRs brings podCIDR and podCIDRs, two spellings of one thing (KEP-563), together as upstream does when it
// decodes: the older field is the first of the newer one, and wins where they differ.
func normalizePodCIDRs(s *corev1.NodeSpec) {
	switch {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
}

// nodeStatusWord is "Ready", "NotReady" or "Unknown", and "SchedulingDisabled" after it for a cordoned node.
func nodeStatusWord(n *corev1.Node) string {
	word := "Unknown"
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			word = "NotReady"
			if c.Status == corev1.ConditionTrue {
				word = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		word += ",SchedulingDisabled"
	}
	return word
}

// nodeRoles reads the roles from the label kubernetes.io/role and from those below node-role.kubernetes.io/, sorted.
func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if key == "kubernetes.io/role" && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return ""
}

// kernelWord is the kernel's version and, where known, what it runs on.
func kernelWord(info *corev1.NodeSystemInfo) string {
	word := orUnknown(info.KernelVersion)
	if info.Architecture != "" {
		word += " (" + info.Architecture + ")"
	}
	return word
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func boolWord(b bool) string {
	if b {
		return "true"
	}
	return "false"
}
