package apiserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"wherry.dev/wherry/apiserver/wire"
)

// The impersonation headers.
const (
	headerUser  = "Impersonate-User"
	headerUID   = "Impersonate-Uid"
	headerGroup = "Impersonate-Group"
	headerExtra = "Impersonate-Extra-"
)

// wanted reads from the headers as whom a request is to be served: nil when they do not ask for it.
func wanted(h http.Header) (*user.DefaultInfo, error) {
	as := &user.DefaultInfo{Name: h.Get(headerUser), UID: h.Get(headerUID), Groups: h[headerGroup]}
	for name, values := range h {
		rest, ok := strings.CutPrefix(name, headerExtra)
		if !ok {
			continue
		}
		key := strings.ToLower(rest)
		if unescaped, err := url.PathUnescape(key); err == nil {
			key = unescaped
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		as.Extra[key] = append(as.Extra[key], values...)
	}
	switch {
	case as.Name != "":
		return as, nil
	case as.UID != "" || len(as.Groups) > 0 || len(as.Extra) > 0:
		return nil, apierrors.NewBadRequest("requested impersonation without impersonating a user name")
	}
	return nil, nil
}

func impersonates(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// impersonation is one way in which somebody may act as somebody else. The constrained ways (KEP-5284) ask for two permissions: to act as
// this user in this way, and to do what the request does while acting in this way; nobody becomes system:masters by them. The legacy way
// asks for the verb impersonate alone, whatever the request does.
type impersonation struct {
	name string // empty: legacy
	// fits says whether this way is open to real for becoming as.
	fits func(as *user.DefaultInfo, real user.Info) bool
}

// impersonations are the ways, in the order in which they are tried: the narrower, the earlier.
var impersonations = []impersonation{
	{"associated-node", func(as *user.DefaultInfo, real user.Info) bool { // a pod's account acts as the node the pod is on
		node, ok := nodeOf(as.Name)
		_, _, err := serviceaccount.SplitUsername(real.GetName())
		on := real.GetExtra()[serviceaccount.NodeNameKey]
		return ok && err == nil && nameOnly(as) && len(on) == 1 && on[0] == node
	}},
	{"arbitrary-node", func(as *user.DefaultInfo, _ user.Info) bool {
		_, ok := nodeOf(as.Name)
		return ok && nameOnly(as)
	}},
	{"serviceaccount", func(as *user.DefaultInfo, _ user.Info) bool {
		_, _, err := serviceaccount.SplitUsername(as.Name)
		return err == nil && nameOnly(as)
	}},
	{"user-info", func(as *user.DefaultInfo, _ user.Info) bool { // everybody else
		_, node := nodeOf(as.Name)
		_, _, err := serviceaccount.SplitUsername(as.Name)
		return !node && err != nil
	}},
	{"", func(*user.DefaultInfo, user.Info) bool { return true }},
}

// nodeOf returns the node that a user name is the name of.
func nodeOf(name string) (node string, ok bool) {
	node, ok = strings.CutPrefix(name, "system:node:")
	return node, ok && len(validation.NameIsDNSSubdomain(node, false)) == 0
}

func nameOnly(as *user.DefaultInfo) bool {
	return as.UID == "" && len(as.Groups) == 0 && len(as.Extra) == 0
}

// impersonate returns as whom a request is served: real, or whom the headers name if real may act as each part of that identity.
// constraint is the way in which it may, for the audit. request is what it is about, by real.
func (s *Server) impersonate(ctx context.Context, h http.Header, real user.Info, request *authorizer.AttributesRecord) (who user.Info, constraint string, err error) {
	as, err := wanted(h)
	if err != nil {
		return nil, "", err
	}
	for k := range h { // what follows must not act on them again
		if strings.HasPrefix(k, "Impersonate-") {
			h.Del(k)
		}
	}
	if as == nil {
		return real, "", nil
	}
	var refusal error // the first: the narrowest way
	for i := range impersonations {
		way := &impersonations[i]
		if !way.fits(as, real) {
			continue
		}
		who, err := s.impersonateBy(ctx, way, as, real, request)
		if err == nil {
			if way.name != "" {
				constraint = "impersonate:" + way.name
			}
			return who, constraint, nil
		}
		if refusal == nil {
			refusal = err
		}
	}
	return nil, "", refusal
}

// impersonateBy tries one way.
func (s *Server) impersonateBy(ctx context.Context, way *impersonation, as *user.DefaultInfo, real user.Info, request *authorizer.AttributesRecord) (user.Info, error) {
	constrained, verb, group := way.name != "", "impersonate", ""
	if constrained {
		on := *request
		on.Verb = "impersonate-on:" + way.name + ":" + request.Verb
		if err := s.authorize(ctx, &on); err != nil {
			return nil, err
		}
		verb, group = "impersonate:"+way.name, "authentication.k8s.io"
	}
	attributes := func(group, resource, name string) *authorizer.AttributesRecord {
		return &authorizer.AttributesRecord{User: real, Verb: verb, APIGroup: group, APIVersion: "v1", Resource: resource, Name: name, ResourceRequest: true}
	}
	may := func(a *authorizer.AttributesRecord) error { return s.authorize(ctx, a) }
	out := &user.DefaultInfo{Name: as.Name, UID: as.UID, Groups: slices.Clone(as.Groups), Extra: as.Extra}

	// The name.
	who := attributes(group, "users", as.Name)
	namespace, account, err := serviceaccount.SplitUsername(as.Name)
	node, isNode := nodeOf(as.Name)
	switch {
	case err == nil:
		who.Resource, who.Namespace, who.Name = "serviceaccounts", namespace, account
		if len(as.Groups) == 0 {
			out.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	case constrained && isNode:
		who.Resource, who.Name = "nodes", node
		if way.name == "associated-node" { // whichever node it is on
			who.Name = "*"
		}
		out.Groups = []string{user.NodesGroup}
	}
	if err := may(who); err != nil {
		return nil, err
	}
	if as.UID != "" {
		if err := may(attributes("authentication.k8s.io", "uids", as.UID)); err != nil {
			return nil, err
		}
	}
	// The groups.
	for _, g := range as.Groups {
		a := attributes(group, "groups", g)
		if constrained && (g == "" || g == user.SystemPrivilegedGroup) {
			return nil, wire.Forbidden(a, fmt.Sprintf("impersonating the %s group is not allowed", cmp.Or(g, "empty string")))
		}
		if err := may(a); err != nil {
			return nil, err
		}
	}
	// The rest.
	for key, values := range as.Extra {
		a := attributes("authentication.k8s.io", "userextras", "")
		if constrained {
			if why := strangeExtra(key, values); why != "" {
				return nil, wire.Forbidden(a, why)
			}
		}
		a.Subresource = key
		for _, v := range values {
			a.Name = v
			if err := may(a); err != nil {
				return nil, err
			}
		}
	}
	if as.Name == user.Anonymous {
		out.Groups = with(out.Groups, user.AllUnauthenticated, user.AllUnauthenticated)
	} else {
		out.Groups = with(out.Groups, user.AllAuthenticated, user.AllUnauthenticated)
	}
	return out, nil
}

// strangeExtra says why something about a user may not be taken on, where that is constrained.
func strangeExtra(key string, values []string) string {
	switch {
	case key == "":
		return "impersonating the empty string key in extra is not allowed"
	case len(values) == 0:
		return "impersonating empty values in extra is not allowed"
	case slices.Contains(values, ""):
		return "impersonating the empty string value in extra is not allowed"
	}
	if errs := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key); len(errs) > 0 {
		return fmt.Sprintf("impersonating an invalid key in extra is not allowed: %v", errs.ToAggregate())
	}
	return ""
}

// with adds a group unless it or its opposite is there.
func with(groups []string, add, unless string) []string {
	for _, g := range groups {
		if g == add || g == unless {
			return groups
		}
	}
	return append(groups[:len(groups):len(groups)], add)
}

// selectors tells the authorizer what a list is restricted to (KEP-4601); what cannot be parsed restricts nothing.
func selectors(a *authorizer.AttributesRecord, field, label string) {
	if field != "" {
		if sel, err := fields.ParseSelector(field); err != nil {
			a.FieldSelectorParsingErr = err
		} else {
			a.FieldSelectorRequirements = sel.Requirements()
		}
	}
	if label != "" {
		sel, err := labels.Parse(label)
		if err != nil {
			a.LabelSelectorParsingErr = err
		} else if reqs, ok := sel.Requirements(); ok {
			a.LabelSelectorRequirements = reqs
		}
	}
}

func asStatus(err error, target *apierrors.APIStatus) bool { return errors.As(err, target) }
