package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/logs"
)

// containerLogs is kubectl logs.
func (s *server) containerLogs(w http.ResponseWriter, r *http.Request) {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	o, previous, err := logOptions(r.URL.Query(), time.Now())
	if err != nil {
		answer(w, http.StatusUnprocessableEntity, "%v", err)
		return
	}
	pod := s.c.Backend.Pod(namespace, name, "")
	if pod == nil {
		answer(w, http.StatusNotFound, "pod %q does not exist", name)
		return
	}
	if !hasContainer(pod, container) {
		answer(w, http.StatusNotFound, "container %q not found in pod %q", container, name)
		return
	}
	id, ok := s.c.Backend.Running(pod.UID, container)
	if previous || !ok {
		// The status knows of what has ended.
		if id, err = loggedInstance(&pod.Status, name, container, previous); err != nil {
			answer(w, http.StatusBadRequest, "%v", err)
			return
		}
	}
	path, err := s.c.Backend.LogPath(r.Context(), id)
	if err != nil {
		answer(w, http.StatusInternalServerError, "unable to find the log of container %q in pod %q: %v", container, name, err)
		return
	}
	if o.Follow {
		o.Ended = s.c.Backend.Ended(r.Context(), id)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &firstByte{w: w, flush: http.NewResponseController(w).Flush, flushEach: o.Follow}
	err = logs.Read(r.Context(), path, o, out)
	switch {
	case err == nil || r.Context().Err() != nil:
	case out.written:
		s.log.Debug("log could not be sent to its end", "pod", namespace+"/"+name, "container", container, "err", err)
		if !o.Follow {
			panic(http.ErrAbortHandler) // so that the client does not take it for the whole
		}
	case errors.Is(err, fs.ErrNotExist):
		answer(w, http.StatusNotFound, "unable to retrieve container logs for %s: %v", id, err)
	default:
		answer(w, http.StatusInternalServerError, "%v", err)
	}
}

// firstByte remembers whether anything was written, after which an error can no longer be told by a status code.
type firstByte struct {
	w         http.ResponseWriter
	flush     func() error
	flushEach bool
	written   bool
}

func (f *firstByte) Write(b []byte) (int, error) {
	f.written = true
	return f.w.Write(b)
}

// Flush is called by the log reader before it waits for more. The first time it also tells a client whose container is
// silent that the request was accepted.
func (f *firstByte) Flush() error {
	if !f.flushEach {
		return nil
	}
	f.written = true
	return f.flush()
}

// logOptions reads PodLogOptions from a query, checking as upstream's validation does.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	o = logs.Options{Tail: -1, Limit: -1}
	flag := func(name string) bool {
		v := strings.ToLower(q.Get(name))
		return q.Has(name) && v != "false" && v != "0"
	}
	number := func(name string, least int64) (n int64, ok bool) {
		v := q.Get(name)
		if v == "" || err != nil {
			return 0, false
		}
		n, perr := strconv.ParseInt(v, 10, 64)
		if perr != nil {
			err = fmt.Errorf("%s: Invalid value: %q: must be a number", name, v)
		} else if n < least {
			err = fmt.Errorf("%s: Invalid value: %d: must be greater than or equal to %d", name, n, least)
		}
		return n, err == nil
	}
	o.Follow, o.Timestamps, previous = flag("follow"), flag("timestamps"), flag("previous")
	if n, ok := number("tailLines", 0); ok {
		o.Tail = n
	}
	if n, ok := number("limitBytes", 1); ok {
		o.Limit = n
	}
	if n, ok := number("sinceSeconds", 1); ok {
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if !o.Since.IsZero() {
			return o, previous, errors.New("at most one of `sinceTime` or `sinceSeconds` may be specified")
		}
		if o.Since, err = time.Parse(time.RFC3339, v); err != nil {
			return o, previous, fmt.Errorf("sinceTime: Invalid value: %q: must be a time as in RFC 3339", v)
		}
	}
	switch v := q.Get("stream"); v {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		o.Stream = logs.Stdout
	case corev1.LogStreamStderr:
		o.Stream = logs.Stderr
	default:
		return o, previous, fmt.Errorf("stream: Unsupported value: %q: supported values: \"All\", \"Stdout\", \"Stderr\"", v)
	}
	return o, previous, err
}

func hasContainer(pod *corev1.Pod, name string) bool {
	is := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(pod.Spec.Containers, is) || slices.ContainsFunc(pod.Spec.InitContainers, is) ||
		slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

// loggedInstance is the container instance whose log is meant: the present one, the last one while it is being
// restarted, or the one before. Its errors are upstream's, which kubectl shows.
func loggedInstance(status *corev1.PodStatus, pod, container string, previous bool) (string, error) {
	var c *corev1.ContainerStatus
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container {
				c = &list[i]
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", container, pod)
	}
	id := ""
	switch {
	case previous:
		if c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ContainerID == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", container, pod)
		}
		id = c.LastTerminationState.Terminated.ContainerID
	case c.State.Running != nil:
		id = c.ContainerID
	case c.State.Terminated != nil && c.State.Terminated.ContainerID != "":
		id = c.State.Terminated.ContainerID
	case c.LastTerminationState.Terminated != nil && c.LastTerminationState.Terminated.ContainerID != "":
		id = c.LastTerminationState.Terminated.ContainerID
	case c.State.Terminated != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", container, pod)
	case c.State.Waiting != nil:
		switch reason := c.State.Waiting.Reason; reason {
		case "ErrImagePull":
			return "", fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", container, pod)
		case "ImagePullBackOff":
			return "", fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", container, pod)
		default:
			return "", fmt.Errorf("container %q in pod %q is waiting to start: %v", container, pod, reason)
		}
	}
	_, id, _ = strings.Cut(id, "://")
	if id == "" {
		return "", fmt.Errorf("container %q in pod %q is not available", container, pod)
	}
	return id, nil
}

// newRoot is a directory that links cannot lead out of.
func newRoot(dir string) fs.FS {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return failed{fmt.Errorf("open %s: %w", dir, err)}
	}
	return root.FS()
}

// failed is a file system that could not be opened.
type failed struct{ err error }

func (f failed) Open(string) (fs.File, error) { return nil, f.err }
