package discovery

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"wherry.dev/wherry/api/kinds"
)

// Priority orders groups among each other and versions within their group, the higher number first: spec.groupPriorityMinimum and
// spec.versionPriority of an APIService.
type Priority struct{ Group, Version int32 }

// builtIn are the priorities of the groups and versions that upstream serves, also of those which are served here some day.
var builtIn = map[schema.GroupVersion]Priority{
	{Group: "", Version: "v1"}:                                  {18000, 1},
	{Group: "apps", Version: "v1"}:                              {17800, 15},
	{Group: "events.k8s.io", Version: "v1"}:                     {17750, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:             {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:              {17600, 15},
	{Group: "autoscaling", Version: "v2"}:                       {17500, 30},
	{Group: "autoscaling", Version: "v1"}:                       {17500, 15},
	{Group: "batch", Version: "v1"}:                             {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:               {17300, 15},
	{Group: "certificates.k8s.io", Version: "v1beta1"}:          {17300, 9},
	{Group: "certificates.k8s.io", Version: "v1alpha1"}:         {17300, 1},
	{Group: "networking.k8s.io", Version: "v1"}:                 {17200, 15},
	{Group: "networking.k8s.io", Version: "v1beta1"}:            {17200, 9},
	{Group: "policy", Version: "v1"}:                            {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:         {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:                    {16800, 15},
	{Group: "storage.k8s.io", Version: "v1beta1"}:               {16800, 9},
	{Group: "admissionregistration.k8s.io", Version: "v1"}:      {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1beta1"}: {16700, 12},
	{Group: "apiextensions.k8s.io", Version: "v1"}:              {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:                 {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:               {16500, 15},
	{Group: "coordination.k8s.io", Version: "v1beta1"}:          {16500, 13},
	{Group: "node.k8s.io", Version: "v1"}:                       {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:                  {16200, 15},
	{Group: "resource.k8s.io", Version: "v1"}:                   {16200, 21},
	{Group: "resource.k8s.io", Version: "v1beta2"}:              {16200, 15},
	{Group: "resource.k8s.io", Version: "v1beta1"}:              {16200, 9},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:      {16100, 21},
	{Group: "internal.apiserver.k8s.io", Version: "v1alpha1"}:   {16000, 9},
	{Group: "storagemigration.k8s.io", Version: "v1"}:           {15800, 15},
	{Group: "storagemigration.k8s.io", Version: "v1beta1"}:      {15800, 9},
}

// Priorities of what is not in the table.
var (
	registration = Priority{20001, 0}  // which no APIService describes, and which comes before every one that can be
	custom       = Priority{1000, 100} // the versions of a custom group have no order but their names'
	unlisted     = Priority{1000, 15}  // built in, but not known upstream
)

// PriorityOf returns where a kind's group and version stands, and whether an APIService is kept for it.
func PriorityOf(k *kinds.Kind) (p Priority, registered bool) {
	gv := k.GroupVersionKind.GroupVersion()
	switch {
	case k.Custom:
		return custom, true
	case gv.Group == apiregistrationv1.GroupName:
		return registration, false
	}
	if p, ok := builtIn[gv]; ok {
		return p, true
	}
	return unlisted, false
}
