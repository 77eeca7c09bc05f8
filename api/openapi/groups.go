package openapi

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
)

const versionModel = "io.k8s.apimachinery.pkg.version.Info"

// groupsOf returns one group for each document, in the order of the kinds. Their paths are made when they are asked for. A group of old whose
// kinds are the same ones is used again, with what is known of it.
func groupsOf(served []*kinds.Kind, old []*group) []*group {
	known := make(map[string]*group, len(old))
	for _, g := range old {
		known[g.path] = g
	}
	again := func(g *group) *group {
		if o := known[g.path]; o != nil && slices.Equal(o.kinds, g.kinds) {
			return o
		}
		return g
	}
	groups := []*group{
		again(&group{path: "api", paths: func() []path {
			return []path{listing("/api/", "get available API versions", "getCoreAPIVersions", "core", modelOf(metav1.APIVersions{}), objectTypes)}
		}}),
		again(&group{path: "apis", paths: func() []path {
			return []path{listing("/apis/", "get available API versions", "getAPIVersions", "apis", modelOf(metav1.APIGroupList{}), objectTypes)}
		}}),
		again(&group{path: "version", paths: func() []path {
			return []path{listing("/version/", "get the version information for this server", "getCodeVersion", "version", versionModel, objectTypes[:1])}
		}}),
	}
	byVersion := map[schema.GroupVersion][]*kinds.Kind{}
	var order []schema.GroupVersion
	for _, k := range served {
		gv := k.GroupVersionKind.GroupVersion()
		if byVersion[gv] == nil {
			order = append(order, gv)
		}
		byVersion[gv] = append(byVersion[gv], k)
	}
	named := map[string]bool{}
	for _, gv := range order {
		if gv.Group != "" && !named[gv.Group] {
			named[gv.Group] = true
			groups = append(groups, again(&group{path: "apis/" + gv.Group, paths: func() []path {
				return []path{listing("/apis/"+gv.Group+"/", "get information of a group", "get"+groupTitle(gv.Group)+"APIGroup", groupTag(gv.Group), modelOf(metav1.APIGroup{}), objectTypes)}
			}}))
		}
		ks := byVersion[gv]
		groups = append(groups, again(&group{path: groupVersionPath(gv), kinds: ks, paths: func() []path {
			root := "/" + groupVersionPath(gv) + "/"
			id := "get" + groupTitle(gv.Group) + upperFirst(gv.Version) + "APIResources"
			paths := []path{listing(root, "get available resources", id, groupTag(gv.Group)+"_"+gv.Version, modelOf(metav1.APIResourceList{}), objectTypes)}
			for _, k := range ks {
				paths = append(paths, newResource(k).paths()...)
			}
			return paths
		}}))
	}
	return groups
}

// listing describes a path that tells what there is.
func listing(url, description, id, tag, model string, types []string) path {
	return path{url: url, operations: []operation{{
		method: "get", id: id, tag: tag, description: description, consumes: types, produces: types,
		responses: append(answers(model, "200"), response{code: "401", description: "Unauthorized", none: true}),
	}}}
}
