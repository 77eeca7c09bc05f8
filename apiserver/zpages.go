package apiserver

import (
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/statusz"
	"k8s.io/component-base/compatibility"
)

// component is what the server calls itself on its pages, as upstream's.
const component = "apiserver"

// zpages are /statusz (KEP-4827) and /flagz (KEP-4828): what the server is and how it was started, for people and, as kinds of config.k8s.io, for machines.
// They are made when somebody asks for the first time. Each nil: it is not served.
func (r *raw) zpages() (status, flags func() http.Handler) {
	status = sync.OnceValue(func() http.Handler {
		var page onePage
		version := compatibility.NewEffectiveVersionFromString(r.server.config.Version.GitVersion, "", "")
		statusz.Install(&page, component, statusz.NewRegistry(version, statusz.WithListedPaths(r.paths())))
		return page.Handler
	})
	if r.server.config.Flags == nil {
		return status, nil
	}
	flags = sync.OnceValue(func() http.Handler {
		var page onePage
		flagz.Install(&page, component, flagReader(r.server.config.Flags))
		return page.Handler
	})
	return status, flags
}

// flagReader is a flagz.Reader.
type flagReader map[string]string

// GetFlagz implements flagz.Reader.
func (f flagReader) GetFlagz() map[string]string { return f }

// onePage is the mux of a package that installs one handler.
type onePage struct{ http.Handler }

// Handle takes the handler.
func (p *onePage) Handle(_ string, h http.Handler) { p.Handler = h }
