package apiserver

import (
	"encoding/json"
	"strings"
	"testing"

	flagzv1beta1 "k8s.io/apiserver/pkg/server/flagz/api/v1beta1"
	statuszv1beta1 "k8s.io/apiserver/pkg/server/statusz/api/v1beta1"
)

// TestZPages: what the server is and how it was started is told to people and to machines, and to nobody who may not know it.
func TestZPages(t *testing.T) {
	w := start(t, func(c *Config) { c.Flags = map[string]string{"port": "6443", "name": "dev"} })
	text := func(path string, want ...string) {
		t.Helper()
		code, header, body := w.raw(t, "GET", path, admin, nil, "")
		if code != 200 || header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Fatalf("%s: %d %v %s", path, code, header, body)
		}
		for _, s := range want {
			if !strings.Contains(body, s) {
				t.Errorf("%s does not say %q: %s", path, s, body)
			}
		}
	}
	text("/statusz", "apiserver statusz", "Binary version", "1.37", "/livez", "/metrics", "/flagz")
	text("/flagz", "apiserver flagz", "port", "6443", "name", "dev")

	structured := func(path, kind string, into any) {
		t.Helper()
		code, header, body := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/json;v=v1beta1;g=config.k8s.io;as=" + kind}, "")
		if code != 200 || header.Get("Content-Type") != "application/json;g=config.k8s.io;v=v1beta1;as="+kind {
			t.Fatalf("%s: %d %v %s", path, code, header, body)
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatal(err)
		}
	}
	var status statuszv1beta1.Statusz
	if structured("/statusz", "Statusz", &status); status.Kind != "Statusz" || status.Name != "apiserver" || !strings.HasPrefix(status.BinaryVersion, "1.37") || status.StartTime.IsZero() {
		t.Errorf("%+v", status)
	}
	var flags flagzv1beta1.Flagz
	if structured("/flagz", "Flagz", &flags); flags.Kind != "Flagz" || flags.Flags["port"] != "6443" || flags.Flags["name"] != "dev" {
		t.Errorf("%+v", flags)
	}

	for path, code := range map[string]int{"/statusz/more": 404, "/flagz/more": 404} {
		if got, _, body := w.raw(t, "GET", path, admin, nil, ""); got != code {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	for _, path := range []string{"/statusz", "/flagz"} {
		if code, _, body := w.raw(t, "GET", path, nobody, nil, ""); code != 403 {
			t.Errorf("%s for nobody: %d %s", path, code, body)
		}
		if code, _, body := w.raw(t, "GET", path, admin, map[string]string{"Accept": "application/vnd.kubernetes.protobuf"}, ""); code != 406 {
			t.Errorf("%s in protobuf: %d %s", path, code, body)
		}
	}
	if _, _, body := w.raw(t, "GET", "/", admin, nil, ""); !strings.Contains(body, `"/statusz"`) || !strings.Contains(body, `"/flagz"`) {
		t.Error("the index lacks them: " + body)
	}
}
