package apiserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// dialSocket opens a WebSocket as the administrator.
func (w *world) dialSocket(t *testing.T, path string, protocols []string, accept string) (*websocket.Conn, error) {
	t.Helper()
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(w.ca)
	header := http.Header{"Authorization": {"Bearer " + admin}}
	if accept != "" {
		header.Set("Accept", accept)
	}
	ws, err := websocket.DialConfig(&websocket.Config{Location: &url.URL{Scheme: "wss", Host: w.address, Opaque: "//" + w.address + path}, Origin: &url.URL{Scheme: "https", Host: w.address},
		Version: websocket.ProtocolVersionHybi13, TlsConfig: &tls.Config{RootCAs: authorities}, Header: header, Protocol: protocols})
	if err == nil {
		t.Cleanup(func() { ws.Close() })
		ws.SetDeadline(time.Now().Add(time.Minute))
	}
	return ws, err
}

// TestWatchOverWebSocket sees one event in each message, in every encoding, until the client or the watch ends.
func TestWatchOverWebSocket(t *testing.T) {
	w := start(t, nil)
	maps := w.client(t, false).CoreV1().ConfigMaps("default")
	const path = "/api/v1/namespaces/default/configmaps?watch=1&labelSelector=seen%3Dyes"
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	since := "&resourceVersion=" + list.ResourceVersion
	for _, name := range []string{"a", "b"} { // both are in one batch of events
		if _, err := maps.Create(t.Context(), configMap(name, map[string]string{"seen": "yes"}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	name := func(t *testing.T, message []byte, format string) string {
		var event metav1.WatchEvent
		var cm corev1.ConfigMap
		if format == "protobuf" {
			if err := event.Unmarshal(message); err != nil {
				t.Fatal(err)
			}
			if err := runtime.DecodeInto(scheme.Codecs.UniversalDeserializer(), event.Object.Raw, &cm); err != nil {
				t.Fatal(err)
			}
		} else {
			decoder := json.NewDecoder(bytes.NewReader(message))
			if err := decoder.Decode(&event); err != nil {
				t.Fatalf("%v: %q", err, message)
			}
			if decoder.More() {
				t.Fatalf("more than one event in %q", message)
			}
			if err := json.Unmarshal(event.Object.Raw, &cm); err != nil {
				t.Fatal(err)
			}
		}
		return event.Type + " " + cm.Name
	}
	for _, c := range []struct {
		title, format, accept string
		protocols             []string
	}{{title: "plain", format: "json"}, {title: "named", format: "json", protocols: []string{"base64.binary.k8s.io"}},
		{title: "protobuf", format: "protobuf", accept: "application/vnd.kubernetes.protobuf"}, {title: "metadata", format: "json", accept: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}} {
		t.Run(c.title, func(t *testing.T) {
			ws, err := w.dialSocket(t, path+since, c.protocols, c.accept)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"ADDED a", "ADDED b"} {
				frame, err := ws.NewFrameReader()
				if err != nil {
					t.Fatal(err)
				}
				if text := frame.PayloadType() == websocket.TextFrame; text != (c.format == "json") {
					t.Errorf("a message of type %d", frame.PayloadType())
				}
				message, err := io.ReadAll(frame)
				if err != nil {
					t.Fatal(err)
				}
				if got := name(t, message, c.format); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			}
		})
	}
	t.Run("ends", func(t *testing.T) {
		ws, err := w.dialSocket(t, path+since+"&timeoutSeconds=1", nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, ws); err != nil {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		if ws, err := w.dialSocket(t, path+"&resourceVersion=never", nil, ""); err == nil {
			t.Errorf("a revision that is none: %v", ws)
		}
		if ws, err := w.dialSocket(t, path, []string{"one", "two"}, ""); err == nil {
			t.Errorf("of two protocols, one was taken: %v", ws.Config().Protocol)
		}
	})
	t.Run("left", func(t *testing.T) { // the server notices
		ws, err := w.dialSocket(t, path, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		ws.Close()
		eventually(t, "the watch has ended", func() bool {
			_, _, shown := w.raw(t, "GET", "/metrics", admin, nil, "")
			return strings.Contains(shown, `apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="namespace",subresource="",verb="WATCH",version="v1"} 0`)
		})
	})
}
