package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// exec starts a program in a running container and joins its streams with the client's.
func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	pod, id, ok := s.running(w, r)
	if !ok {
		return
	}
	streams, err := wanted(r.URL.Query())
	if err != nil {
		answer(w, http.StatusBadRequest, "%v", err)
		return
	}
	at, err := s.c.Backend.Exec(r.Context(), id, r.URL.Query()["command"], streams)
	if err != nil {
		answer(w, http.StatusInternalServerError, "error executing command in container of pod %q: %v", pod.Name, err)
		return
	}
	s.stream(w, r, at, streams)
}

// attach joins the container's own streams with the client's.
func (s *server) attach(w http.ResponseWriter, r *http.Request) {
	pod, id, ok := s.running(w, r)
	if !ok {
		return
	}
	streams, err := wanted(r.URL.Query())
	if err != nil {
		answer(w, http.StatusBadRequest, "%v", err)
		return
	}
	ask := streams
	if terminal(pod, r.PathValue("container")) {
		// Whether there is a terminal was settled when the container was created, whatever the client asks for: a runtime
		// that is asked for a second output of a terminal waits for its end for ever. A client that asked for one brings
		// as many streams as are counted with a terminal: it opens an output for errors, which stays silent, in place of the sizes.
		ask.TTY, ask.Stderr = true, false
	}
	at, err := s.c.Backend.Attach(r.Context(), id, ask)
	if err != nil {
		answer(w, http.StatusInternalServerError, "error attaching to container of pod %q: %v", pod.Name, err)
		return
	}
	s.stream(w, r, at, streams)
}

// terminal reports whether a container of the pod was created with a terminal.
func terminal(pod *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i].TTY
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return pod.Spec.EphemeralContainers[i].TTY
		}
	}
	return false
}

// portForward carries the client's connections to ports inside the pod.
func (s *server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.pod(w, r)
	if !ok {
		return
	}
	// Over SPDY the ports come with each stream; over old WebSocket protocols with the request.
	var ports []int32
	for _, list := range r.URL.Query()["port"] {
		for p := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				answer(w, http.StatusBadRequest, "unable to parse %q as a port", p)
				return
			}
			ports = append(ports, int32(n))
		}
	}
	if wsstream.IsWebSocketRequest(r) && !wsstream.IsWebSocketRequestWithTunnelingProtocol(r) && len(ports) == 0 {
		answer(w, http.StatusBadRequest, "query parameter \"port\" is required")
		return
	}
	sandbox, ok := s.c.Backend.Sandbox(pod.UID)
	if !ok {
		answer(w, http.StatusNotFound, "not found (%q): the pod has no running sandbox", pod.Name)
		return
	}
	at, err := s.c.Backend.PortForward(r.Context(), sandbox, ports)
	if err != nil {
		answer(w, http.StatusInternalServerError, "error forwarding ports to pod %q: %v", pod.Name, err)
		return
	}
	u, err := url.Parse(at)
	if err != nil {
		answer(w, http.StatusInternalServerError, "runtime's streaming address %q: %v", at, err)
		return
	}
	direct := s.upgrade(u)
	apiproxy.NewTranslatingHandler(direct, apiproxy.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(w, r)
}

// run executes a command and answers with what it wrote: upstream's /run, for debugging by hand.
func (s *server) run(w http.ResponseWriter, r *http.Request) {
	_, id, ok := s.running(w, r)
	if !ok {
		return
	}
	cmd := r.URL.Query()["cmd"]
	if len(cmd) == 1 {
		cmd = strings.Fields(cmd[0])
	}
	if len(cmd) == 0 {
		answer(w, http.StatusBadRequest, "query parameter \"cmd\" is required")
		return
	}
	stdout, stderr, code, err := s.c.Backend.ExecSync(r.Context(), id, cmd, 2*time.Minute)
	if err != nil {
		answer(w, http.StatusInternalServerError, "%v", err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(append(stdout, stderr...))
	if code != 0 {
		fmt.Fprintf(w, "command terminated with exit code %d", code)
	}
}

// wanted reads which streams a client asks for.
func wanted(q url.Values) (Streams, error) {
	on := func(name string) bool { return q.Get(name) == "1" || strings.EqualFold(q.Get(name), "true") }
	s := Streams{Stdin: on("input"), Stdout: on("output"), Stderr: on("error"), TTY: on("tty")}
	if s.TTY {
		s.Stderr = false // a terminal has one output
	}
	if !s.Stdin && !s.Stdout && !s.Stderr {
		return s, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

// pod finds the pod that the path names; ok is false when the request has been answered.
func (s *server) pod(w http.ResponseWriter, r *http.Request) (*corev1.Pod, bool) {
	pod := s.c.Backend.Pod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if pod == nil {
		answer(w, http.StatusNotFound, "pod does not exist")
		return nil, false
	}
	return pod, true
}

// running finds the running container that the path names.
func (s *server) running(w http.ResponseWriter, r *http.Request) (*corev1.Pod, string, bool) {
	pod, ok := s.pod(w, r)
	if !ok {
		return nil, "", false
	}
	id, ok := s.c.Backend.Running(pod.UID, r.PathValue("container"))
	if !ok {
		answer(w, http.StatusNotFound, "container not found (%q)", r.PathValue("container"))
		return nil, "", false
	}
	return pod, id, true
}

// stream joins the client with the runtime's streaming server. Runtimes speak SPDY and the older WebSocket protocols;
// a client that speaks WebSocket v5 is translated to SPDY.
func (s *server) stream(w http.ResponseWriter, r *http.Request, at string, streams Streams) {
	u, err := url.Parse(at)
	if err != nil {
		answer(w, http.StatusInternalServerError, "runtime's streaming address %q: %v", at, err)
		return
	}
	direct := s.upgrade(u)
	translator := apiproxy.NewStreamTranslatorHandler(u, nil, 0, apiproxy.Options{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr, Tty: streams.TTY})
	apiproxy.NewTranslatingHandler(direct, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(w, r)
}

// upgrade hands the connection, protocol change and all, to the runtime's streaming server.
func (s *server) upgrade(u *url.URL) http.Handler {
	h := proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{s})
	h.UseLocationHost = true
	return h
}

// responder tells a client that the runtime could not be reached.
type responder struct{ s *server }

// Error implements proxy.ErrorResponder.
func (e responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	e.s.log.Warn("stream to the runtime failed", "path", r.URL.Path, "err", err)
	answer(w, http.StatusInternalServerError, "error while proxying to the container runtime: %v", err)
}
