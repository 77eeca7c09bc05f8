package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/apiserver"
)

// Where upstream's scheduler and controller manager say how they are, on the API server's machine.
const (
	schedulerHealth         = "https://127.0.0.1:10259/healthz"
	controllerManagerHealth = "https://127.0.0.1:10257/healthz"
)

// components are what the deprecated kind ComponentStatus shows. A part of this process is well as long as there is the process, which ends with any of its
// parts; of one that somebody else runs upstream's is asked.
func (c *controlPlane) components() []apiserver.Component {
	part := func(name, part, url string) apiserver.Component {
		if c.settings.Disable[part] {
			return apiserver.Component{Name: name, Check: func(ctx context.Context) (corev1.ConditionStatus, string, error) { return askHealth(ctx, url) }}
		}
		return apiserver.Component{Name: name, Check: func(context.Context) (corev1.ConditionStatus, string, error) { return corev1.ConditionTrue, "ok", nil }}
	}
	return []apiserver.Component{
		part("controller-manager", "controllers", controllerManagerHealth),
		{Name: "etcd-0", Check: func(ctx context.Context) (corev1.ConditionStatus, string, error) {
			if err := c.store.check(ctx); err != nil {
				return corev1.ConditionFalse, "", err
			}
			return corev1.ConditionTrue, "ok", nil
		}},
		part("scheduler", "scheduler", schedulerHealth),
	}
}

// askHealth asks a health endpoint on this machine, whoever signed its certificate.
func askHealth(ctx context.Context, url string) (corev1.ConditionStatus, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return corev1.ConditionUnknown, "", fmt.Errorf("ask %s: %w", url, err)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil { // upstream shows it as what the component says
		return corev1.ConditionFalse, err.Error(), nil
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 10<<10))
	if err != nil {
		return corev1.ConditionFalse, err.Error(), nil
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return corev1.ConditionFalse, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
	}
	return corev1.ConditionTrue, string(said), nil
}
