package apiserver

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
)

// TestHealth asks the health paths as load balancers, kubelets and people do.
func TestHealth(t *testing.T) {
	var broken atomic.Bool
	w := startAggregating(t, func(c *Config) {
		c.Checks = []Check{{Name: "etcd", Check: func(context.Context) error {
			if broken.Load() {
				return errors.New("it is full")
			}
			return nil
		}}, {Name: "first-objects", ReadyOnly: true, Check: func(context.Context) error { return nil }}}
	})
	eventually(t, "every APIService is registered", func() bool {
		code, _, _ := w.raw(t, "GET", "/readyz", admin, nil, "")
		return code == 200
	})
	ready := "[+]ping ok\n[+]etcd ok\n[+]first-objects ok\n[+]informer-sync ok\n[+]autoregister-completion ok\n[+]shutdown ok\n"
	for path, want := range map[string]string{
		"/healthz": "ok", "/livez": "ok", "/readyz": "ok", "/livez/etcd": "ok", "/readyz/informer-sync": "ok", "/livez?exclude=etcd": "ok",
		"/livez?verbose":                          "[+]ping ok\n[+]etcd ok\nlivez check passed\n",
		"/healthz?verbose":                        "[+]ping ok\n[+]etcd ok\nhealthz check passed\n",
		"/readyz?verbose":                         ready + "readyz check passed\n",
		"/readyz?verbose&exclude=etcd":            strings.Replace(ready, "etcd ok", "etcd excluded: ok", 1) + "readyz check passed\n",
		"/livez?verbose&exclude=a&exclude=b":      "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"a\", \"b\"\nlivez check passed\n",
		"/readyz/autoregister-completion?verbose": "ok",
	} {
		if code, _, body := w.raw(t, "GET", path, admin, nil, ""); code != 200 || body != want {
			t.Errorf("%s: %d %q, not %q", path, code, body, want)
		}
	}
	for _, path := range []string{"/livez/", "/livez/informer-sync", "/readyz/nothing"} {
		if code, _, body := w.raw(t, "GET", path, admin, nil, ""); code != 404 {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	broken.Store(true)
	for path, want := range map[string]string{
		"/livez":                          "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n",
		"/livez/etcd":                     "internal server error: it is full\n",
		"/readyz?exclude=informer-sync":   "",
		"/healthz?verbose&exclude=nobody": "[+]ping ok\n[-]etcd failed: reason withheld\nwarn: some health checks cannot be excluded: no matches for \"nobody\"\nhealthz check failed\n",
	} {
		if code, _, body := w.raw(t, "GET", path, admin, nil, ""); code != 500 || want != "" && body != want {
			t.Errorf("%s: %d %q, not %q", path, code, body, want)
		}
	}
	if code, _, body := w.raw(t, "GET", "/livez?exclude=etcd", admin, nil, ""); code != 200 {
		t.Errorf("what is broken is excluded: %d %q", code, body)
	}
	if code, _, body := w.raw(t, "GET", "/apis/apps/v9", admin, nil, ""); code != 404 || !strings.Contains(body, `"message":"the server could not find the requested resource","reason":"NotFound"`) {
		t.Errorf("another version of a group: %d %q", code, body)
	}
}
