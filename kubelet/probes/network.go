package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
)

// dial connects with a short linger, so that a node which probes a lot does not fill its port table with TIME_WAIT.
func (p *Prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := p.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		// An error here only costs the port some seconds more.
		_ = t.SetLinger(1)
	}
	return c, nil
}

func (p *Prober) tcp(ctx context.Context, address string, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return Outcome{Output: cut(err.Error())}
	}
	c.Close()
	return Outcome{OK: true}
}

// maxBody is how much of an answer is read.
const maxBody = 10 << 10

// http makes one request, as upstream does: any certificate, no keep-alive, up to ten redirects on the same host.
func (p *Prober) http(ctx context.Context, t Target, action *v1.HTTPGetAction, timeout time.Duration) Outcome {
	u, headers, err := Request(action, t.Container, t.IP)
	if err != nil {
		return Outcome{Unknown: true, Output: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return Outcome{Unknown: true, Output: err.Error()}
	}
	req.Header = headers
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", p.UserAgent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	}
	req.Host = headers.Get("Host")
	transport := &http.Transport{DialContext: p.dial, DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // probes have never verified: core/v1 HTTPGetAction
	client := http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		return Outcome{Output: cut(err.Error())}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return Outcome{Output: cut(err.Error())}
	}
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return Outcome{OK: true, Output: string(body)}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return Outcome{OK: true, Warning: true, Output: "Probe terminated redirects, Response body: " + string(body)}
	}
	return Outcome{Output: fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode)}
}

// Request builds the URL and headers of an HTTP action on a container; hooks use it too.
func Request(action *v1.HTTPGetAction, c *v1.Container, ip string) (*url.URL, http.Header, error) {
	port, err := Port(action.Port, c)
	if err != nil {
		return nil, nil, err
	}
	host := action.Host
	if host == "" {
		host = ip
	}
	u, err := url.Parse(action.Path)
	if err != nil {
		u = &url.URL{Path: action.Path}
	}
	u.Scheme = strings.ToLower(string(action.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	headers := http.Header{}
	for _, h := range action.HTTPHeaders {
		// The names are kept as written: some servers look at their case.
		headers[h.Name] = append(headers[h.Name], h.Value)
	}
	return u, headers, nil
}

// grpc asks the standard health service (KEP-2727).
func (p *Prober) grpc(ctx context.Context, address, service string, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(p.UserAgent),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return p.dial(ctx, "tcp", a) }))
	if err != nil {
		return Outcome{Unknown: true, Output: err.Error()}
	}
	defer conn.Close()
	r, err := grpc_health_v1.NewHealthClient(conn).Check(metadata.NewOutgoingContext(ctx, metadata.MD{}),
		&grpc_health_v1.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return Outcome{Output: fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())}
		case codes.DeadlineExceeded:
			return Outcome{Output: fmt.Sprintf("timeout: failed to connect service %q within %s: %s", address, timeout, status.Convert(err).Message())}
		}
		return Outcome{Output: "error: health rpc probe failed: " + cut(err.Error())}
	}
	if s := r.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return Outcome{Output: fmt.Sprintf("service unhealthy (responded with %q)", s)}
	}
	return Outcome{OK: true, Output: "service healthy"}
}
