package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// TestLibrariesReportErrorsOnly: the end of a stream is no error, and everything else that a library calls one is.
func TestLibrariesReportErrorsOnly(t *testing.T) {
	var out bytes.Buffer
	quietLibraries(slog.New(slog.NewTextHandler(&out, nil)))
	defer klog.ClearLogger()
	for _, c := range []struct {
		message, err string
		told         bool
	}{
		{"Error on socket receive", "read tcp 10.0.0.1:6443->10.0.0.2:40000: use of closed network connection", false},
		{"Error on socket receive", "tls: bad record MAC", true},
		{"Error proxying data from client to backend", "websocket: close 1006 (abnormal closure): unexpected EOF", false},
		{"Error proxying data from client to backend", "no space left on device", true},
		{"Failed to watch", `Get "https://10.0.0.1:6443/api/v1/nodes": terminated signal received`, false},
		{"Failed to watch", `Get "https://10.0.0.1:6443/api/v1/nodes": connection refused`, true},
		{"Something else", "use of closed network connection", true},
	} {
		out.Reset()
		klog.ErrorS(errors.New(c.err), c.message)
		klog.Flush()
		if told := strings.Contains(out.String(), "level=ERROR"); told != c.told {
			t.Errorf("%s: %s: told %v, want %v: %s", c.message, c.err, told, c.told, out.String())
		}
	}
	out.Reset()
	klog.InfoS("what a library does is its own business")
	klog.Flush()
	if out.Len() > 0 {
		t.Errorf("information was logged: %s", out.String())
	}
}
