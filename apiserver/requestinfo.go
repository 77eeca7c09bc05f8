package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/fields"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// requestInfo reads from the method and the path what a request is about:
//
//	/api/{version}/[namespaces/{namespace}/]{resource}[/{name}[/{subresource}[/...]]]
//	/apis/{group}/{version}/...
//
// with /watch/ or /proxy/ allowed (deprecated) after the version. Everything else is a path without a resource.
func requestInfo(r *http.Request, query func() url.Values) (*apirequest.RequestInfo, error) {
	info := &apirequest.RequestInfo{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	path := strings.Trim(r.URL.Path, "/")
	if !strings.HasPrefix(path, "api") {
		return info, nil
	}
	parts := strings.Split(path, "/")
	grouped := parts[0] == "apis"
	if !grouped && parts[0] != "api" || grouped && len(parts) < 4 || len(parts) < 3 {
		return info, nil
	}
	info.IsResourceRequest = true
	info.APIPrefix, parts = parts[0], parts[1:]
	if grouped {
		info.APIGroup, parts = parts[0], parts[1:]
	}
	info.APIVersion, parts = parts[0], parts[1:]

	byPath := parts[0] == "watch" || parts[0] == "proxy"
	if byPath {
		if len(parts) < 2 {
			return info, fmt.Errorf("unable to determine kind and namespace from url, %v", r.URL)
		}
		info.Verb, parts = parts[0], parts[1:]
	} else {
		switch r.Method {
		case http.MethodPost:
			info.Verb = "create"
		case http.MethodGet, http.MethodHead:
			info.Verb = "get"
		case http.MethodPut:
			info.Verb = "update"
		case http.MethodPatch:
			info.Verb = "patch"
		case http.MethodDelete:
			info.Verb = "delete"
		default:
			info.Verb = ""
		}
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		info.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" { // else it is about the namespace itself
			parts = parts[2:]
		}
	}
	info.Parts = parts
	info.Resource = parts[0]
	if len(parts) >= 2 {
		info.Name = parts[1]
	}
	if len(parts) >= 3 && info.Verb != "proxy" {
		info.Subresource = parts[2]
	}
	switch {
	case info.Name == "" && info.Verb == "get":
		info.Verb = "list"
		q := query()
		if v, ok := q["watch"]; ok && len(v) > 0 && truthy(v[0]) {
			info.Verb = "watch"
		}
		if fs := q.Get("fieldSelector"); fs != "" {
			if sel, err := fields.ParseSelector(fs); err == nil {
				if name, ok := sel.RequiresExactMatch("metadata.name"); ok && len(content.IsPathSegmentName(name)) == 0 {
					info.Name = name
				}
			}
		}
	case info.Name == "" && info.Verb == "delete":
		info.Verb = "deletecollection"
	}
	if !byPath && (info.Verb == "list" || info.Verb == "watch" || info.Verb == "deletecollection") {
		q := query()
		info.FieldSelector, info.LabelSelector = q.Get("fieldSelector"), q.Get("labelSelector")
	}
	return info, nil
}

// truthy is how query parameters spell true: anything but false and 0.
func truthy(s string) bool {
	switch strings.ToLower(s) {
	case "false", "0":
		return false
	}
	return true
}
