package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// RolloutOptions of the lost-requests benchmark.
type RolloutOptions struct {
	Replicas int
	Requests int
	For      time.Duration // the load is spread over this time
	Node     string        // where the load comes from; "" for any
	Timeout  time.Duration
}

// Load is what the load pod reports.
type Load struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Errors   map[string]int `json:"errors"`
	P50      float64        `json:"p50"`
	P99      float64        `json:"p99"`
	Max      float64        `json:"max"`
	Seconds  float64        `json:"seconds"`
}

// Rollout replaces the pods behind a Service one by one while a pod sends requests through it, and counts those that were lost.
// No pod has a preStop hook.
func Rollout(ctx context.Context, t Target, o RolloutOptions) ([]Result, error) {
	var result Result
	err := t.inNamespace(ctx, func(namespace, run string, cs kubernetes.Interface) error {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		pods := cs.CoreV1().Pods(namespace)
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
		service, err := cs.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create service: %w", err)
		}
		t.say("%d replicas", o.Replicas)
		for i := range o.Replicas {
			if err := t.startReplica(ctx, cs, namespace, run, i); err != nil {
				return err
			}
		}
		load := t.loadPod(namespace, run, "http://"+service.Spec.ClusterIP+"/", o)
		if _, err := pods.Create(ctx, load, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create load: %w", err)
		}
		if err := t.waitPod(ctx, cs, namespace, load.Name, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodPending }); err != nil {
			return err
		}
		t.say("replacing pods under %d requests", o.Requests)
		finished := make(chan error, 1)
		go func() {
			finished <- t.waitPod(ctx, cs, namespace, load.Name, func(p *corev1.Pod) bool {
				return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
			})
		}()
		replaced := 0
		for over := false; !over; replaced++ {
			if err := t.startReplica(ctx, cs, namespace, run, o.Replicas+replaced); err != nil {
				return err
			}
			if err := pods.Delete(ctx, replicaName(replaced), metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete replica: %w", err)
			}
			select {
			case err := <-finished:
				if err != nil {
					return err
				}
				over = true
			default:
			}
		}
		report, err := readLoad(ctx, cs, namespace, load.Name)
		if err != nil {
			return err
		}
		result = Result{Name: "requests while pods roll", Workers: 4, Count: report.Requests - report.Failed, Errors: report.Failed, Seconds: report.Seconds,
			Rate: float64(report.Requests) / report.Seconds, P50: report.P50, P99: report.P99, Max: report.Max,
			Note: fmt.Sprintf("%d lost of %d while %d pods were replaced", report.Failed, report.Requests, replaced)}
		for text, n := range report.Errors {
			result.Error = fmt.Sprintf("%s (%d times)", text, n)
			break
		}
		return nil
	})
	return []Result{result}, err
}

func replicaName(i int) string { return fmt.Sprintf("web-%d", i) }

func (t Target) startReplica(ctx context.Context, cs kubernetes.Interface, namespace, run string, i int) error {
	pod := t.pod(namespace, replicaName(i), run)
	pod.Labels["app"] = "web"
	pod.Spec.TerminationGracePeriodSeconds = ptr(int64(30))
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
	if _, err := cs.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create replica: %w", err)
	}
	return t.waitPod(ctx, cs, namespace, pod.Name, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

func (t Target) loadPod(namespace, run, url string, o RolloutOptions) *corev1.Pod {
	pod := t.pod(namespace, "load", run)
	pod.Labels["app"] = "load"
	pod.Spec.NodeName = o.Node
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers[0].Args = []string{"load", "-url", url, "-requests", fmt.Sprint(o.Requests), "-for", o.For.String()}
	return pod
}

func (t Target) waitPod(ctx context.Context, cs kubernetes.Interface, namespace, name string, ok func(*corev1.Pod) bool) error {
	w, err := cs.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return fmt.Errorf("watch pod %s: %w", name, err)
	}
	defer w.Stop()
	for {
		event, open := <-w.ResultChan()
		if !open {
			return fmt.Errorf("pod %s did not get there: %w", name, errors.Join(ctx.Err(), io.ErrUnexpectedEOF))
		}
		if pod, is := event.Object.(*corev1.Pod); is && event.Type != watch.Deleted && ok(pod) {
			return nil
		}
	}
}

// readLoad finds the report in the load pod's log.
func readLoad(ctx context.Context, cs kubernetes.Interface, namespace, name string) (Load, error) {
	stream, err := cs.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return Load{}, fmt.Errorf("read the load's log: %w", err)
	}
	defer stream.Close()
	scanner := bufio.NewScanner(stream)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var l Load
		if json.Unmarshal(scanner.Bytes(), &l) == nil && l.Requests > 0 {
			return l, nil
		}
	}
	return Load{}, errors.New("the load's log has no report")
}
