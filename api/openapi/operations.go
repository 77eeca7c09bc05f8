package openapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/api/scheme"
)

// path is one URL template and what may be done there. v2 and v3 spell it differently.
type path struct {
	url        string
	parameters []parameter // shared by all operations
	operations []operation
}

// operation is one method at a path.
type operation struct {
	method      string // in lower case
	id          string
	action      string // x-kubernetes-action
	kind        *schema.GroupVersionKind
	tag         string
	description string
	parameters  []parameter
	body        *body
	consumes    []string
	produces    []string
	responses   []response
}

type body struct {
	model    string
	optional bool
}

// response is one status code; model is empty for plain text, and there is no content when none is true.
type response struct {
	code        string
	description string
	model       string
	none        bool
}

// Media types, in upstream's order.
var (
	objectTypes = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}
	listTypes   = append(slices.Clone(objectTypes), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch", "application/cbor-seq")
	logTypes    = append([]string{"text/plain"}, objectTypes...)
	patchTypes  = []string{
		"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
		"application/apply-patch+yaml", "application/apply-patch+cbor",
	}
	anyType = []string{"*/*"}
	// Custom resources have neither protobuf nor patch strategies.
	customTypes      = []string{"application/json", "application/yaml"}
	customPatchTypes = []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"}
)

const metaModel = "io.k8s.apimachinery.pkg.apis.meta.v1."

// returnsDeleted are the resources whose deletion answers with the object; others answer with a Status.
var returnsDeleted = map[string]bool{
	"pods": true, "services": true, "serviceaccounts": true, "podtemplates": true, "resourcequotas": true,
	"persistentvolumes": true, "persistentvolumeclaims": true, "storageclasses": true, "csidrivers": true,
	"csinodes": true, "volumeattachments": true, "volumeattributesclasses": true,
}

// resource writes the paths of one kind.
type resource struct {
	kind      *kinds.Kind
	gvk       schema.GroupVersionKind
	scope     string // "Namespaced" or ""
	model     string
	listModel string
	tag       string
	title     string // of the group and version in operation IDs
	root      string // "/api/v1" or "/apis/apps/v1"

	objects, lists, patches, bodies []string // media types
}

// groupTitle is how operation IDs spell a group: "rbac.authorization.k8s.io" is "RbacAuthorization".
func groupTitle(group string) string {
	if group == "" {
		return "Core"
	}
	var title strings.Builder
	for _, part := range strings.Split(strings.TrimSuffix(group, ".k8s.io"), ".") {
		title.WriteString(upperFirst(part))
	}
	return title.String()
}

func groupTag(group string) string {
	title := groupTitle(group)
	return strings.ToLower(title[:1]) + title[1:]
}

func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// modelOf returns the name of the definition of a value's type.
func modelOf(v any) string {
	if named, ok := v.(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	return ""
}

// modelOfKind returns the name of the definition of a kind.
func modelOfKind(gvk schema.GroupVersionKind) string {
	obj, err := scheme.Scheme.New(gvk)
	if err != nil {
		return ""
	}
	return modelOf(obj)
}

func newResource(k *kinds.Kind) *resource {
	gv := k.GroupVersionKind.GroupVersion()
	r := &resource{
		kind: k, gvk: k.GroupVersionKind, model: modelOf(k.New()),
		tag:     groupTag(gv.Group) + "_" + gv.Version,
		title:   groupTitle(gv.Group) + upperFirst(gv.Version),
		root:    "/" + groupVersionPath(gv),
		objects: objectTypes, lists: listTypes, patches: patchTypes, bodies: anyType,
	}
	if k.NewList != nil {
		r.listModel = modelOf(k.NewList())
	}
	if k.Custom {
		r.model, r.listModel = kinds.ModelName(k.GroupVersionKind), kinds.ModelName(listKind(k))
		r.objects, r.lists, r.patches, r.bodies = customTypes, customTypes, customPatchTypes, customTypes
	}
	if k.Namespaced {
		r.scope = "Namespaced"
	}
	return r
}

// groupVersionPath is "api/v1" or "apis/GROUP/VERSION".
func groupVersionPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

func (r *resource) serves(verb string) bool {
	return slices.Contains(r.kind.Verbs, verb) || slices.Contains(r.kind.HiddenVerbs, verb)
}

// id spells an operation ID: the verb, the group and version, more about the verb, the scope, the kind, a suffix.
func (r *resource) id(verb, more, suffix string) string {
	return verb + r.title + more + r.scope + r.gvk.Kind + suffix
}

func (r *resource) paths() (paths []path) {
	collection := r.root + "/" + r.kind.Plural
	var scope []parameter
	if r.kind.Namespaced {
		collection = r.root + "/namespaces/{namespace}/" + r.kind.Plural
		scope = []parameter{namespaceParameter}
	}
	named := append(slices.Clone(scope), nameParameter(r.gvk.Kind))

	paths = append(paths, r.collection(collection, scope))
	if item := r.item(collection+"/{name}", named); len(item.operations) > 0 {
		paths = append(paths, item)
	}
	for _, name := range slices.Sorted(maps.Keys(r.kind.Subresources)) {
		paths = append(paths, r.view(collection+"/{name}", named, name, r.kind.Subresources[name]))
	}
	for _, s := range r.kind.ConnectSubresources {
		paths = append(paths, r.connect(collection+"/{name}", scope, s)...)
	}
	if r.kind.Namespaced && r.serves("list") {
		paths = append(paths, hoist(path{url: r.root + "/" + r.kind.Plural, operations: []operation{
			r.list("list"+r.title+r.gvk.Kind+"ForAllNamespaces", nil),
		}}))
	}
	if r.serves("watch") && !r.kind.Custom {
		paths = append(paths, r.watches(scope, named)...)
	}
	return paths
}

func (r *resource) collection(url string, scope []parameter) path {
	p := path{url: url}
	if r.serves("list") {
		p.operations = append(p.operations, r.list(r.id("list", "", ""), scope))
	}
	if r.serves("create") {
		p.operations = append(p.operations, r.operation("post", "post", r.id("create", "", ""), article("create", r.gvk.Kind), operation{
			parameters: join(scope, optionParameters(metav1.CreateOptions{})), body: &body{model: r.model}, consumes: r.bodies, produces: r.objects,
			responses: answers(r.model, "200", "201", "202"),
		}))
	}
	if r.serves("deletecollection") {
		p.operations = append(p.operations, r.operation("delete", "deletecollection", r.id("delete", "Collection", ""), "delete collection of "+r.gvk.Kind, operation{
			parameters: join(scope, deleteCollectionParameters()), body: &body{model: metaModel + "DeleteOptions", optional: true},
			consumes: r.bodies, produces: r.objects, responses: answers(metaModel+"Status", "200"),
		}))
	}
	return hoist(p)
}

func (r *resource) list(id string, scope []parameter) operation {
	return r.operation("get", "list", id, "list or watch objects of kind "+r.gvk.Kind, operation{
		parameters: join(scope, optionParameters(metav1.ListOptions{})), consumes: r.bodies, produces: r.lists,
		responses: answers(r.listModel, "200"),
	})
}

func (r *resource) item(url string, named []parameter) path {
	p := path{url: url}
	kind := r.gvk.Kind
	if r.serves("get") {
		p.operations = append(p.operations, r.read(r.id("read", "", ""), "read the specified "+kind, named))
	}
	if r.serves("update") {
		p.operations = append(p.operations, r.replace(r.id("replace", "", ""), "replace the specified "+kind, r.model, named))
	}
	if r.serves("delete") {
		answer := metaModel + "Status"
		if returnsDeleted[r.kind.Plural] {
			answer = r.model
		}
		p.operations = append(p.operations, r.operation("delete", "delete", r.id("delete", "", ""), article("delete", kind), operation{
			parameters: join(named, optionParameters(metav1.DeleteOptions{})), body: &body{model: metaModel + "DeleteOptions", optional: true},
			consumes: r.bodies, produces: r.objects, responses: answers(answer, "200", "202"),
		}))
	}
	if r.serves("patch") {
		p.operations = append(p.operations, r.patch(r.id("patch", "", ""), "partially update the specified "+kind, r.model, named))
	}
	return hoist(p)
}

func (r *resource) read(id, description string, named []parameter) operation {
	return r.operation("get", "get", id, description, operation{
		parameters: named, consumes: r.bodies, produces: r.objects, responses: answers(r.model, "200"),
	})
}

func (r *resource) replace(id, description, model string, named []parameter) operation {
	return r.operation("put", "put", id, description, operation{
		parameters: join(named, optionParameters(metav1.UpdateOptions{})), body: &body{model: model},
		consumes: r.bodies, produces: r.objects, responses: answers(model, "200", "201"),
	})
}

func (r *resource) patch(id, description, model string, named []parameter) operation {
	return r.operation("patch", "patch", id, description, operation{
		parameters: join(named, optionParameters(metav1.PatchOptions{})), body: &body{model: metaModel + "Patch"},
		consumes: r.patches, produces: r.objects, responses: answers(model, "200", "201"),
	})
}

// view describes a subresource that is a view of the stored object.
func (r *resource) view(url string, named []parameter, name string, s *kinds.Subresource) path {
	gvk, model := r.gvk, r.model
	if !s.Kind.Empty() {
		gvk, model = s.Kind, modelOfKind(s.Kind)
		named = append(slices.Clone(named[:len(named)-1]), nameParameter(gvk.Kind))
	}
	as := *r
	as.gvk, as.model = gvk, model
	id := func(verb string) string { return r.id(verb, "", upperFirst(name)) }
	p := path{url: url + "/" + name}
	for _, verb := range s.Verbs {
		switch verb {
		case "get":
			p.operations = append(p.operations, as.read(id("read"), fmt.Sprintf("read %s of the specified %s", name, r.gvk.Kind), named))
		case "update":
			p.operations = append(p.operations, as.replace(id("replace"), fmt.Sprintf("replace %s of the specified %s", name, r.gvk.Kind), model, named))
		case "patch":
			p.operations = append(p.operations, as.patch(id("patch"), fmt.Sprintf("partially update %s of the specified %s", name, r.gvk.Kind), model, named))
		}
	}
	return hoist(p)
}

// connect describes a subresource with a meaning of its own: a log, a stream or proxy with options, or something to create.
func (r *resource) connect(url string, scope []parameter, s kinds.SubresourceInfo) []path {
	suffix := upperFirst(s.Name)
	if s.Name == "log" {
		op := r.operation("get", "get", r.id("read", "", suffix), "read log of the specified "+r.gvk.Kind, operation{
			parameters: join(scope, []parameter{nameParameter(r.gvk.Kind)}, optionParameters(corev1.PodLogOptions{})),
			consumes:   r.bodies, produces: logTypes, responses: []response{{code: "200", description: "OK"}},
		})
		return []path{hoist(path{url: url + "/" + s.Name, operations: []operation{op}})}
	}
	as := *r
	as.gvk = s.Kind
	if as.gvk.Empty() {
		as.gvk = r.gvk
	}
	named := append(slices.Clone(scope), nameParameter(as.gvk.Kind))
	options, isOptions := connectOptions(as.gvk.Kind)
	if !isOptions {
		model := modelOfKind(as.gvk)
		op := as.operation("post", "post", r.id("create", "", suffix), fmt.Sprintf("create %s of %s %s", s.Name, aOrAn(r.gvk.Kind), r.gvk.Kind), operation{
			parameters: join(named, optionParameters(metav1.CreateOptions{})), body: &body{model: model},
			consumes: r.bodies, produces: r.objects, responses: answers(model, "200", "201", "202"),
		})
		return []path{hoist(path{url: url + "/" + s.Name, operations: []operation{op}})}
	}
	methods := []string{"get", "post"}
	if s.Name == "proxy" {
		methods = []string{"get", "put", "post", "delete", "options", "head", "patch"}
	}
	describe := func(url, more string, parameters []parameter) path {
		p := path{url: url}
		for _, m := range methods {
			op := as.operation(m, "connect", "connect"+r.title+upperFirst(m)+r.scope+r.gvk.Kind+suffix+more, fmt.Sprintf("connect %s requests to %s of %s", strings.ToUpper(m), s.Name, r.gvk.Kind), operation{
				parameters: parameters, consumes: anyType, produces: anyType, responses: []response{{code: "200", description: "OK"}},
			})
			op.parameters = withoutPretty(op.parameters)
			p.operations = append(p.operations, op)
		}
		return hoist(p)
	}
	paths := []path{describe(url+"/"+s.Name, "", join(named, options))}
	if s.Name == "proxy" {
		paths = append(paths, describe(url+"/"+s.Name+"/{path}", "WithPath", join(named, []parameter{pathParameter}, options)))
	}
	return paths
}

// connectOptions returns the query parameters of a stream or proxy, and whether the kind is one.
func connectOptions(kind string) ([]parameter, bool) {
	switch kind {
	case "PodAttachOptions":
		return optionParameters(corev1.PodAttachOptions{}), true
	case "PodExecOptions":
		return optionParameters(corev1.PodExecOptions{}), true
	case "PodPortForwardOptions":
		return optionParameters(corev1.PodPortForwardOptions{}), true
	case "PodProxyOptions":
		return optionParameters(corev1.PodProxyOptions{}), true
	case "ServiceProxyOptions":
		return optionParameters(corev1.ServiceProxyOptions{}), true
	case "NodeProxyOptions":
		return optionParameters(corev1.NodeProxyOptions{}), true
	}
	return nil, false
}

// watches describes the older paths of watches, which clients generated from the documents still use.
func (r *resource) watches(scope, named []parameter) (paths []path) {
	watch := func(url, action, id, description string, parameters []parameter) {
		op := r.operation("get", action, id, description, operation{
			parameters: join(parameters, optionParameters(metav1.ListOptions{})), consumes: r.bodies, produces: r.lists,
			responses: answers(metaModel+"WatchEvent", "200"),
		})
		paths = append(paths, hoist(path{url: url, operations: []operation{op}}))
	}
	kind := r.gvk.Kind
	of := fmt.Sprintf("watch individual changes to a list of %s. deprecated: use the 'watch' parameter with a list operation instead.", kind)
	one := fmt.Sprintf("watch changes to an object of kind %s. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter.", kind)
	collection := r.root + "/watch/" + r.kind.Plural
	if r.kind.Namespaced {
		collection = r.root + "/watch/namespaces/{namespace}/" + r.kind.Plural
		watch(r.root+"/watch/"+r.kind.Plural, "watchlist", "watch"+r.title+kind+"ListForAllNamespaces", of, nil)
	}
	watch(collection, "watchlist", r.id("watch", "", "List"), of, scope)
	watch(collection+"/{name}", "watch", r.id("watch", "", ""), one, named)
	return paths
}

// operation fills in what every operation of the resource has.
func (r *resource) operation(method, action, id, description string, o operation) operation {
	gvk := r.gvk
	o.method, o.action, o.id, o.description, o.kind, o.tag = method, action, id, description, &gvk, r.tag
	o.parameters = join(o.parameters, []parameter{prettyParameter})
	o.responses = append(o.responses, response{code: "401", description: "Unauthorized", none: true})
	return o
}

func answers(model string, codes ...string) (rs []response) {
	words := map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}
	for _, c := range codes {
		rs = append(rs, response{code: c, description: words[c], model: model})
	}
	return rs
}

// article says what is done to one of a kind; a kind that is a plural (Endpoints) takes no article.
func article(verb, kind string) string {
	if strings.HasSuffix(kind, "s") {
		return verb + " " + kind
	}
	return verb + " " + aOrAn(kind) + " " + kind
}

func aOrAn(kind string) string {
	if strings.ContainsAny(kind[:1], "AEIOU") {
		return "an"
	}
	return "a"
}
