package apiserver

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequestInfo feeds paths: whatever comes, it is taken apart without a panic and never names what is not in the path.
func FuzzRequestInfo(f *testing.F) {
	for _, p := range []string{"/api/v1/namespaces/a/pods/b/status", "/apis/apps/v1/watch/namespaces/x/deployments", "/api/v1/namespaces/x/finalize", "/api//", "/apis/g/v/r?watch=1&fieldSelector=metadata.name%3Da", "/api/v1/proxy", "//api/v1/pods//"} {
		f.Add("GET", p)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.Parse(path)
		if err != nil {
			t.Skip()
		}
		info, err := requestInfo(&http.Request{Method: method, URL: u}, u.Query)
		if err != nil {
			return
		}
		for _, part := range []string{info.Namespace, info.Resource, info.Subresource, info.APIGroup, info.APIVersion} {
			if !strings.Contains(u.Path, part) {
				t.Errorf("%q is not in %q", part, u.Path)
			}
		}
		if info.IsResourceRequest && info.Resource == "" && len(info.Parts) > 0 && info.Parts[0] != "" {
			t.Errorf("no resource in %q: %+v", u.Path, info)
		}
	})
}
