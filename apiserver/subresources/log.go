package subresources

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"wherry.dev/wherry/apiserver/verbs"
)

// maxKubeletError is how much of a kubelet's explanation is passed on.
const maxKubeletError = 2 << 10

// log streams a container's log from the kubelet.
func (s *Set) log(ctx context.Context, pods *verbs.Served, r *verbs.Request) (verbs.Answer, error) {
	o, err := logOptions(r.Query())
	if err != nil {
		return verbs.Answer{}, err
	}
	if errs := validateLogOptions(o); len(errs) > 0 {
		return verbs.Answer{}, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, r.Info.Name, errs)
	}
	pod, err := s.pod(ctx, pods, r)
	if err != nil {
		return verbs.Answer{}, err
	}
	container, err := containerOf(pod, o.Container)
	if err != nil {
		return verbs.Answer{}, err
	}
	if pod.Spec.NodeName == "" { // there is nothing yet
		r.Writer.WriteHeader(http.StatusNoContent)
		return verbs.Answer{}, nil
	}
	host, err := s.kubelet(ctx, pod.Spec.NodeName)
	if err != nil {
		return verbs.Answer{}, err
	}
	u := &url.URL{Scheme: "https", Host: host, Path: fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), RawQuery: logQuery(o).Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return verbs.Answer{}, apierrors.NewInternalError(err)
	}
	transport := s.kubelets
	if o.InsecureSkipTLSVerifyBackend {
		transport = s.insecureKubelets
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return verbs.Answer{}, apierrors.NewInternalError(err)
	}
	defer resp.Body.Close()
	if err := kubeletError(resp, r.Info.Name); err != nil {
		return verbs.Answer{}, err
	}
	if wsstream.IsWebSocketRequest(r.HTTP) { // as browsers ask
		overWebSocket(r.Writer, r.HTTP, resp.Body)
		return verbs.Answer{}, nil
	}
	r.Writer.Header().Set("Content-Type", "text/plain")
	r.Writer.WriteHeader(http.StatusOK)
	var out io.Writer = r.Writer
	if o.Follow {
		flush := http.NewResponseController(r.Writer)
		if flush.Flush() == nil {
			out = flushing{r.Writer, flush}
		}
	}
	_, _ = io.Copy(out, resp.Body) // an end on either side ends the stream, and there is no way left to say more
	return verbs.Answer{}, nil
}

// flushing sends every line on at once.
type flushing struct {
	w     io.Writer
	flush *http.ResponseController
}

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.flush.Flush()
	}
	return n, err
}

// kubeletError turns a kubelet's refusal into a Status.
func kubeletError(resp *http.Response, name string) error {
	if resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusPartialContent {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxKubeletError))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	switch text := string(b); resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(fmt.Errorf("%s", text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	case http.StatusNotFound:
		return apierrors.NewGenericServerResponse(resp.StatusCode, "", podResource, name, text, 0, false)
	default:
		return apierrors.NewGenericServerResponse(resp.StatusCode, "", schema.GroupResource{}, "", text, 0, false)
	}
}

// logOptions reads the query.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{Container: q.Get("container"), Follow: boolean(q, "follow"), Previous: boolean(q, "previous"), Timestamps: boolean(q, "timestamps"),
		InsecureSkipTLSVerifyBackend: boolean(q, "insecureSkipTLSVerifyBackend")}
	for name, to := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		v := q.Get(name)
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		*to = &n
	}
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	}
	return o, nil
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	if o.Stream != nil {
		switch *o.Stream {
		case corev1.LogStreamAll:
		case corev1.LogStreamStdout, corev1.LogStreamStderr:
			if o.TailLines != nil {
				errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
			}
		default:
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}))
		}
	}
	return errs
}

// logQuery is what the kubelet is asked.
func logQuery(o *corev1.PodLogOptions) url.Values {
	q := url.Values{}
	for name, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if on {
			q.Set(name, "true")
		}
	}
	for name, v := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if v != nil {
			q.Set(name, strconv.FormatInt(*v, 10))
		}
	}
	if o.SinceTime != nil {
		q.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		q.Set("stream", *o.Stream)
	}
	return q
}
