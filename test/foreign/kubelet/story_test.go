package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"wherry.dev/wherry/test/foreign/plane"
)

// sampleImage is a web server that Wherry's binary carries inside. It is ready once the file READY_FILE is there.
const sampleImage = "wherry.dev/sample:1"

// hasImage asks a container runtime itself.
func hasImage(ctx context.Context, socket, name string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := cri.NewImageServiceClient(conn).ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err == nil && answer.Image == nil {
		err = fmt.Errorf("no image %s", name)
	}
	return err
}

// story is a pod's life on the kubelet's node.
type story struct {
	*plane.Plane
	t       *testing.T
	kubelet *plane.Process
	dir     string
}

func (s *story) run() {
	s.create()
	s.logs()
	s.exec()
	s.forward()
	s.stats()
	s.update()
	s.static()
	s.job()
	s.delete()
}

func (s *story) eventually(what string, look func() error) {
	s.t.Helper()
	plane.Eventually(s.t, what, 2*time.Minute, look, s.kubelet)
}

// container is one that becomes ready only when a file of a volume is there.
func container(name, file string, port int) corev1.Container {
	return corev1.Container{
		Name: name, Image: sampleImage, ImagePullPolicy: corev1.PullNever,
		Env: []corev1.EnvVar{{Name: "PORT", Value: fmt.Sprint(port)}, {Name: "READY_FILE", Value: file},
			{Name: "MESSAGE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "words"}, Key: "greeting"}}}},
		ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt(port)}}},
		VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/config"}, {Name: "words", MountPath: "/words"}, {Name: "about", MountPath: "/about"}, {Name: "room", MountPath: "/room"}},
		Resources:      corev1.ResourceRequirements{},
	}
}

// create: every sort of volume that the API feeds is there before a container is ready.
func (s *story) create() {
	s.t.Helper()
	ctx, core := s.t.Context(), s.Kube.CoreV1()
	s.eventually("the namespace's service account", func() error {
		_, err := core.ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if _, err := core.ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"first": "1"}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "words"}, StringData: map[string]string{"greeting": "good morning"}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr(int64(2)),
		Containers: []corev1.Container{container("config", "/config/first", 8080), container("token", "/var/run/secrets/kubernetes.io/serviceaccount/token", 8081),
			container("labels", "/about/labels", 8082), container("late", "/config/second", 8083)},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "config"}}}},
			{Name: "words", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "words"}}},
			{Name: "about", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
			{Name: "room", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		}}}
	if _, err := core.Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("all containers but one to be ready", func() error { return s.ready("config", "token", "labels") })
}

// ready says whether exactly these containers are.
func (s *story) ready(names ...string) error {
	pod, err := s.Kube.CoreV1().Pods("default").Get(s.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, n := range names {
		want[n] = true
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.Ready != want[c.Name] {
			return fmt.Errorf("container %s: ready %v, state %+v", c.Name, c.Ready, c.State)
		}
	}
	if len(pod.Status.ContainerStatuses) != 4 || pod.Status.PodIP == "" {
		return fmt.Errorf("status %+v", pod.Status)
	}
	return nil
}

func (s *story) logs() {
	s.t.Helper()
	b, err := s.Kube.CoreV1().Pods("default").GetLogs("web", &corev1.PodLogOptions{Container: "config"}).DoRaw(s.t.Context())
	if err != nil || !strings.Contains(string(b), "serving on :8080 as web") {
		s.t.Errorf("log: %q, %v", b, err)
	}
}

// exec runs a command over both protocols that clients speak.
func (s *story) exec() {
	s.t.Helper()
	request := s.Kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("web").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "config", Command: []string{"/sample", "get", "http://127.0.0.1:8081/"}, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	webSocket, err := remotecommand.NewWebSocketExecutor(s.Config, http.MethodGet, request.URL().String())
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := remotecommand.NewSPDYExecutor(s.Config, http.MethodPost, request.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	for name, executor := range map[string]remotecommand.Executor{"WebSocket": webSocket, "SPDY": stream} {
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
		if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}); err != nil || !strings.Contains(stdout.String(), "good morning from web") {
			s.t.Errorf("exec over %s: %q, %q, %v", name, stdout.String(), stderr.String(), err)
		}
		cancel()
	}
}

// forward asks the pod through a forwarded port, over both protocols.
func (s *story) forward() {
	s.t.Helper()
	url := s.Kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("web").SubResource("portforward").URL()
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(url, s.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(s.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{"WebSocket": tunnel, "SPDY": spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)} {
		if err := s.forwarded(dialer); err != nil {
			s.t.Errorf("port-forward over %s: %v", name, err)
		}
	}
}

func (s *story) forwarded(dialer httpstream.Dialer) error {
	stop, ready, failed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	go func() { failed <- forwarder.ForwardPorts() }()
	defer func() {
		close(stop)
		<-failed
	}()
	select {
	case <-ready:
	case err := <-failed:
		failed <- err
		return err
	case <-time.After(30 * time.Second):
		return errors.New("not ready in time")
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && !strings.Contains(string(b), "good morning from web") {
		err = fmt.Errorf("got %q", b)
	}
	return err
}

// stats reads what the kubelet says of its pods, through the API server's proxy.
func (s *story) stats() {
	s.t.Helper()
	s.eventually("the node's statistics to have the pod", func() error {
		b, err := s.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(nodeName).SubResource("proxy").Suffix("stats/summary").DoRaw(s.t.Context())
		if err == nil && !strings.Contains(string(b), `"name": "web"`) {
			err = fmt.Errorf("%d bytes without it", len(b))
		}
		return err
	})
}

// update: a key that is added to a ConfigMap reaches the container that waits for it.
func (s *story) update() {
	s.t.Helper()
	if _, err := s.Kube.CoreV1().ConfigMaps("default").Patch(s.t.Context(), "config", "application/merge-patch+json", []byte(`{"data":{"second":"2"}}`), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the last container to be ready", func() error { return s.ready("config", "token", "labels", "late") })
}

const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: fixed, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "` + sampleImage + `", imagePullPolicy: Never}]
`

// static: the image of a static pod comes and goes with its file.
func (s *story) static() {
	s.t.Helper()
	file := filepath.Join(s.dir, "static", "fixed.yaml")
	if err := os.WriteFile(file, []byte(staticPod), 0o600); err != nil {
		s.t.Fatal(err)
	}
	name := "fixed-" + nodeName
	s.eventually("the static pod to run", func() error {
		pod, err := s.Kube.CoreV1().Pods("default").Get(s.t.Context(), name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return err
	})
	if err := os.Remove(file); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the static pod to go", func() error { return s.gone(name) })
}

// job: a pod that ends by itself is told to have succeeded.
func (s *story) job() {
	s.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{Name: "app", Image: sampleImage, ImagePullPolicy: corev1.PullNever, Args: []string{"get", "http://" + s.podIP() + ":8080/"}}}}}
	if _, err := s.Kube.CoreV1().Pods("default").Create(s.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the pod to succeed", func() error {
		pod, err := s.Kube.CoreV1().Pods("default").Get(s.t.Context(), "once", metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("phase %s, %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
		return err
	})
}

func (s *story) podIP() string {
	s.t.Helper()
	pod, err := s.Kube.CoreV1().Pods("default").Get(s.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod.Status.PodIP
}

func (s *story) delete() {
	s.t.Helper()
	for _, name := range []string{"web", "once"} {
		if err := s.Kube.CoreV1().Pods("default").Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, name := range []string{"web", "once"} {
		s.eventually("pod "+name+" to be gone", func() error { return s.gone(name) })
	}
	s.eventually("its folders to be gone", func() error {
		entries, err := os.ReadDir(filepath.Join(s.dir, "root", "pods"))
		if err == nil && len(entries) > 0 {
			err = fmt.Errorf("%d are left", len(entries))
		}
		return err
	})
}

func (s *story) gone(name string) error {
	_, err := s.Kube.CoreV1().Pods("default").Get(s.t.Context(), name, metav1.GetOptions{})
	switch {
	case err == nil:
		return errors.New("it is still there")
	case apierrors.IsNotFound(err):
		return nil
	}
	return err
}

func ptr[T any](v T) *T { return &v }
