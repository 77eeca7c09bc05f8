package subresources

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"wherry.dev/wherry/apiserver/verbs"
)

func asStatus(err error, target *apierrors.APIStatus) bool { return errors.As(err, target) }

// exec runs a command in a container, over SPDY or WebSocket.
func (s *Set) exec(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	q := r.Query()
	o := &corev1.PodExecOptions{Stdin: boolean(q, "stdin"), Stdout: boolean(q, "stdout"), Stderr: boolean(q, "stderr"), TTY: boolean(q, "tty"),
		Container: q.Get("container"), Command: q["command"]}
	if len(o.Command) == 0 {
		return verbs.Answer{}, apierrors.NewBadRequest("you must specify at least 1 command for the container")
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return verbs.Answer{}, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	return s.terminal(ctx, pods, r, "exec", o, o.Container, apiproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, o.Command)
}

// attach joins a container's own streams.
func (s *Set) attach(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	q := r.Query()
	o := &corev1.PodAttachOptions{Stdin: boolean(q, "stdin"), Stdout: boolean(q, "stdout"), Stderr: boolean(q, "stderr"), TTY: boolean(q, "tty"), Container: q.Get("container")}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return verbs.Answer{}, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	return s.terminal(ctx, pods, r, "attach", o, o.Container, apiproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, nil)
}

// terminal connects a client's streams with those of a container, through the node's kubelet.
func (s *Set) terminal(ctx context.Context, pods *verbs.Served, r *verbs.Request, verb string, options runtime.Object, container string, streams apiproxy.Options, command []string) (verbs.Answer, error) {
	loc, err := s.connect(ctx, pods, r, options)
	if err != nil {
		return verbs.Answer{}, err
	}
	if container, err = containerOf(loc.pod, container); err != nil {
		return verbs.Answer{}, err
	}
	loc.url.Path = fmt.Sprintf("/%s/%s/%s/%s", verb, loc.pod.Namespace, loc.pod.Name, container)
	q := url.Values{}
	for name, on := range map[string]bool{"input": streams.Stdin, "output": streams.Stdout, "error": streams.Stderr, "tty": streams.Tty} {
		if on {
			q.Set(name, "1")
		}
	}
	if len(command) > 0 {
		q["command"] = command
	}
	loc.url.RawQuery = q.Encode()
	// The kubelet speaks SPDY (and old WebSocket protocols) with us; a client that speaks WebSocket v5 is translated.
	direct := s.upgrade(loc.url)
	translator := apiproxy.NewStreamTranslatorHandler(loc.url, s.kubelets, 0, streams)
	apiproxy.NewTranslatingHandler(direct, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol).ServeHTTP(r.Writer, r.HTTP)
	return verbs.Answer{}, nil
}

// portForward carries connections to ports of a pod.
func (s *Set) portForward(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	o := &corev1.PodPortForwardOptions{}
	for _, v := range r.Query()["ports"] {
		p, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return verbs.Answer{}, apierrors.NewBadRequest(fmt.Sprintf("port %q is not a number", v))
		}
		o.Ports = append(o.Ports, int32(p))
	}
	loc, err := s.connect(ctx, pods, r, o)
	if err != nil {
		return verbs.Answer{}, err
	}
	loc.url.Path = fmt.Sprintf("/portForward/%s/%s", loc.pod.Namespace, loc.pod.Name)
	q := url.Values{}
	for _, p := range o.Ports {
		q.Add("port", strconv.Itoa(int(p)))
	}
	loc.url.RawQuery = q.Encode()
	direct := s.upgrade(loc.url)
	apiproxy.NewTranslatingHandler(direct, apiproxy.NewTunnelingHandler(direct), wsstream.IsWebSocketRequestWithTunnelingProtocol).ServeHTTP(r.Writer, r.HTTP)
	return verbs.Answer{}, nil
}

// upgrade proxies a connection that changes its protocol, to a kubelet.
func (s *Set) upgrade(u *url.URL) http.Handler {
	h := proxy.NewUpgradeAwareHandler(u, s.kubelets, false, true, responder{})
	h.UseLocationHost = true
	return h
}

// location is a pod and its node's kubelet.
type location struct {
	pod *corev1.Pod
	url *url.URL
}

// connect finds the kubelet of the pod at hand, once admission has agreed to the connection.
func (s *Set) connect(ctx context.Context, pods *verbs.Served, r *verbs.Request, options runtime.Object) (location, error) {
	if r.HTTP.Method == http.MethodGet {
		// WebSocket clients have to use GET; what they do is a create all the same.
		if err := r.Authorize(ctx, "create"); err != nil {
			return location{}, err
		}
	}
	if err := pods.Admit.Connecting(ctx, pods, r, options); err != nil {
		return location{}, err
	}
	pod, err := s.pod(ctx, pods, r)
	if err != nil {
		return location{}, err
	}
	if pod.Spec.NodeName == "" {
		return location{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	host, err := s.kubelet(ctx, pod.Spec.NodeName)
	if err != nil {
		return location{}, err
	}
	return location{pod, &url.URL{Scheme: "https", Host: host}}, nil
}
