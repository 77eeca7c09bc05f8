package aggregate

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"

	"wherry.dev/wherry/apiserver/wire"
)

// handler carries requests to another server. Immutable.
type handler struct {
	peer      *peer
	available bool
}

// auditHeader names a request in the logs of both servers.
const auditHeader = "Audit-Id"

// ServeHTTP implements http.Handler. Upstream's words are kept: clients look for them.
func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch {
	case !h.available:
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	case h.peer.broken != nil:
		http.Error(w, h.peer.broken.Error(), http.StatusInternalServerError)
		return
	}
	user, ok := apirequest.UserFrom(req.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	at, err := h.peer.network.resolve(h.peer.service)
	if err != nil {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	// The path goes on as it was understood here when the request was authorized, and no other spelling of it.
	location := &url.URL{Scheme: at.Scheme, Host: at.Host, Path: req.URL.Path, RawQuery: req.URL.Query().Encode()}
	out, cancel := apiproxy.NewRequestForProxy(location, req) // discovery gets a deadline of its own
	defer cancel()
	if id := w.Header().Get(auditHeader); id != "" {
		out.Header.Set(auditHeader, id)
	}
	// Nothing of the sender's own credentials goes on: the server trusts us, and we say who it is.
	out.Header.Del("Authorization")
	transport.SetAuthProxyHeaders(out, user.GetName(), user.GetUID(), user.GetGroups(), user.GetExtra())
	p := proxy.NewUpgradeAwareHandler(location, &once{h.peer.transport, w.Header()}, true, httpstream.IsUpgradeRequest(req), responder{h.peer.failed})
	p.RejectForwardingRedirects = true // a server must not send clients, with what they would show there, somewhere else
	p.ServeHTTP(w, out)
}

// once carries one request. Where both servers set a header that may be there once only, the answer has the other server's.
type once struct {
	transport *http.Transport
	ours      http.Header
}

// RoundTrip implements http.RoundTripper.
func (o *once) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.transport.RoundTrip(req)
	if err == nil {
		resp.Header.Del(auditHeader)
		if resp.Header.Get("Cache-Control") != "" {
			o.ours.Del("Cache-Control")
		}
	}
	return resp, err
}

// WrappedRoundTripper lets upgrades find how to dial.
func (o *once) WrappedRoundTripper() http.RoundTripper { return o.transport }

// responder answers for a server that does not.
type responder struct{ failed func() }

// Error implements proxy.ErrorResponder.
func (r responder) Error(w http.ResponseWriter, req *http.Request, err error) {
	if i, ok := apirequest.RequestInfoFrom(req.Context()); ok && i.IsResourceRequest && errors.Is(req.Context().Err(), context.DeadlineExceeded) {
		wire.WriteError(w, req, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0))
		return
	}
	if req.Context().Err() == nil { // or the sender has gone, which says nothing about the server
		r.failed()
	}
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}
