package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// raw sends requests and reads answers without decoding them. client-go takes as long over a small object as the server does, on the
// same processors, so that two servers measured through it look more alike than they are.
type raw struct {
	http     *http.Client
	host     string
	encoding string // media type
}

// raws makes one for each worker, over the connections that clients would have.
func (t Target) raws(workers int) ([]*raw, error) {
	out := make([]*raw, workers)
	for i := range workers {
		if i >= connections {
			out[i] = out[i%connections]
			continue
		}
		c := t.config(i)
		h, err := rest.HTTPClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		out[i] = &raw{http: h, host: strings.TrimSuffix(c.Host, "/"), encoding: c.ContentType}
	}
	return out, nil
}

// do sends one request; an answer of 300 or more is an error with the server's words. It returns the answer's body when keep asks for it.
func (r *raw) do(ctx context.Context, method, path, contentType string, body []byte, keep bool) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header["Accept"] = []string{r.encoding}
	if body != nil {
		req.Header["Content-Type"] = []string{contentType}
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 || keep {
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode < 300 {
			return b, err
		}
		return nil, fmt.Errorf("%s %s: %s: %q", method, path, resp.Status, b[:min(len(b), 300)])
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return nil, err
}

// encodePod writes a pod as requests of this encoding carry it.
func (r *raw) encodePod(pod *corev1.Pod) ([]byte, error) {
	for _, info := range scheme.Codecs.SupportedMediaTypes() {
		if info.MediaType == r.encoding {
			pod.APIVersion, pod.Kind = "v1", "Pod"
			return runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), pod)
		}
	}
	return nil, fmt.Errorf("encoding %s is not known", r.encoding)
}

// deleteNow is the body of a deletion without grace.
var deleteNow, _ = json.Marshal(metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, GracePeriodSeconds: new(int64)})
