package apiserver

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLogs reads a log from a kubelet as kubectl does, and over a WebSocket as browsers do.
func TestLogs(t *testing.T) {
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containerLogs/default/web/c" || r.URL.Query().Get("tailLines") != "2" {
			http.Error(w, "asked for "+r.URL.String(), http.StatusNotFound)
			return
		}
		io.WriteString(w, "one\ntwo\n")
	}))
	defer kubelet.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(kubelet.Certificate())
	w := start(t, func(c *Config) { c.KubeletTLS = &tls.Config{RootCAs: trusted, ServerName: "example.com"} })
	host, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	cs, ctx := w.client(t, false), t.Context()
	node, err := cs.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := cs.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cs.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	const path = "/api/v1/namespaces/default/pods/web/log?tailLines=2"
	if code, header, body := w.raw(t, "GET", path, admin, nil, ""); code != 200 || body != "one\ntwo\n" || header.Get("Content-Type") != "text/plain" {
		t.Errorf("%d %v %q", code, header, body)
	}

	at := &url.URL{Scheme: "wss", Host: w.address, Opaque: "//" + w.address + path}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(w.ca)
	for _, c := range []struct{ protocol, want string }{{"binary.k8s.io", "one\ntwo\n"}, {"base64.binary.k8s.io", "b25lCnR3bwo="}, {"", "one\ntwo\n"}, {"odd", ""}} {
		config := &websocket.Config{Location: at, Origin: &url.URL{Scheme: "https", Host: w.address}, Version: websocket.ProtocolVersionHybi13,
			TlsConfig: &tls.Config{RootCAs: authorities}, Header: http.Header{"Authorization": {"Bearer " + admin}}}
		if c.protocol != "" {
			config.Protocol = []string{c.protocol}
		}
		ws, err := websocket.DialConfig(config)
		if c.want == "" {
			if err == nil {
				t.Errorf("protocol %q is spoken", c.protocol)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			var message []byte
			if err := websocket.Message.Receive(ws, &message); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			got = append(got, message...)
		}
		ws.Close()
		if string(got) != c.want {
			t.Errorf("protocol %q: %q", c.protocol, got)
		}
	}
}
