package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// The impersonation headers.
const (
	headerUser  = "Impersonate-User"
	headerUID   = "Impersonate-Uid"
	headerGroup = "Impersonate-Group"
	headerExtra = "Impersonate-Extra-"
)

func impersonates(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// impersonate returns whom real acts as, if real may act as each part of that identity.
func (s *Server) impersonate(ctx context.Context, hr *http.Request, real user.Info) (user.Info, error) {
	h := hr.Header
	name, uid, groups := h.Get(headerUser), h.Get(headerUID), h[headerGroup]
	extra := map[string][]string{}
	for k, v := range h {
		if rest, ok := strings.CutPrefix(k, headerExtra); ok {
			key := strings.ToLower(rest)
			if unescaped, err := url.PathUnescape(key); err == nil {
				key = unescaped
			}
			extra[key] = v
		}
	}
	if name == "" {
		return nil, apierrors.NewBadRequest("requested impersonation without impersonating a user")
	}
	may := func(a authorizer.AttributesRecord) error {
		a.User, a.Verb, a.ResourceRequest, a.APIVersion = real, "impersonate", true, "v1"
		if a.APIGroup != "" {
			a.APIVersion = "v1"
		}
		return s.authorize(ctx, &a)
	}
	as := &user.DefaultInfo{Name: name, UID: uid, Groups: groups, Extra: map[string][]string{}}
	if namespace, sa, err := serviceaccount.SplitUsername(name); err == nil {
		if err := may(authorizer.AttributesRecord{Resource: "serviceaccounts", Namespace: namespace, Name: sa}); err != nil {
			return nil, err
		}
		if len(groups) == 0 {
			as.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	} else if err := may(authorizer.AttributesRecord{Resource: "users", Name: name}); err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := may(authorizer.AttributesRecord{Resource: "groups", Name: g}); err != nil {
			return nil, err
		}
	}
	if uid != "" {
		if err := may(authorizer.AttributesRecord{APIGroup: "authentication.k8s.io", Resource: "uids", Name: uid}); err != nil {
			return nil, err
		}
	}
	for k, values := range extra {
		for _, v := range values {
			if err := may(authorizer.AttributesRecord{APIGroup: "authentication.k8s.io", Resource: "userextras", Subresource: k, Name: v}); err != nil {
				return nil, err
			}
		}
		as.Extra[k] = values
	}
	if name == user.Anonymous {
		as.Groups = with(as.Groups, user.AllUnauthenticated, user.AllAuthenticated)
	} else {
		as.Groups = with(as.Groups, user.AllAuthenticated, user.AllUnauthenticated)
	}
	for k := range h { // what follows must not act on them again
		if strings.HasPrefix(k, "Impersonate-") {
			h.Del(k)
		}
	}
	return as, nil
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
