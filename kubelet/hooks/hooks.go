// Package hooks runs a container's lifecycle hooks, postStart and preStop: a command in the container, an HTTP request
// from the node, or a sleep (core/v1 LifecycleHandler, KEP-3960). Used by the pod worker only.
package hooks

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/probes"
)

// Executor runs a command in a container; kubelet/runtime's client is one.
type Executor interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exit int32, err error)
}

// Runner runs hooks. Safe for concurrent use.
type Runner struct {
	Exec      Executor
	UserAgent string
}

// maxAnswer is how much of a hook's output stands in an event.
const maxAnswer = 10 << 10

// Run runs one handler of a container and returns when it is done or ctx ends. ip is the pod's address.
func (r *Runner) Run(ctx context.Context, c *v1.Container, containerID, ip string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		stdout, stderr, exit, err := r.Exec.ExecSync(ctx, containerID, h.Exec.Command, 0)
		if err != nil {
			return err
		}
		if exit != 0 {
			out := string(stdout) + string(stderr)
			return fmt.Errorf("command '%s' exited with %d: %s, message: %q", strings.Join(h.Exec.Command, " "), exit, stderr, out[:min(len(out), maxAnswer)])
		}
		return nil
	case h.HTTPGet != nil:
		return r.http(ctx, c, ip, h.HTTPGet)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("invalid handler: %v", h)
}

func (r *Runner) http(ctx context.Context, c *v1.Container, ip string, action *v1.HTTPGetAction) error {
	u, headers, err := probes.Request(action, c, ip)
	if err != nil {
		return err
	}
	do := func() (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header = headers.Clone()
		if _, ok := req.Header["User-Agent"]; !ok {
			req.Header.Set("User-Agent", r.UserAgent)
		}
		req.Host = headers.Get("Host")
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // as probes: the certificate is the pod's own affair
		return client.Do(req)
	}
	res, err := do()
	if err != nil && u.Scheme == "https" && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		// Hooks once ignored the scheme, and manifests that say https to a plain port still work upstream. A
		// credential is not sent in the clear for that.
		u.Scheme = "http"
		delete(headers, "Authorization")
		res, err = do()
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// The answer does not matter, its reading to the end does: some servers act on it.
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	return nil
}
