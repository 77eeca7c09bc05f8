package whole

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"wherry.dev/wherry/test/outside"
)

// says fails the test unless out has every one of want.
func says(t *testing.T, what, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%s does not say %q: %s", what, w, out)
		}
	}
}

// commands tries what people type, with the story's pod.
func (s *story) commands(t *testing.T) {
	for _, c := range []stage{{"get", s.get}, {"logs", s.logs}, {"exec", s.exec}, {"attach", s.attach}, {"port-forward", s.portForward}, {"watch", s.watch}, {"apply", s.apply}, {"explain", s.explain}, {"wherry kubectl", s.ownKubectl}} {
		s.Run(c.name, c.check)
	}
}

func (s *story) get(t *testing.T) {
	fields := strings.Fields(strings.Split(s.Kubectl("get", "pod", "web", "-n", "shop", "-o", "wide"), "\n")[1])
	if len(fields) != 9 || fields[0] != "web" || fields[1] != "1/1" || fields[2] != "Running" || fields[3] != "0" || fields[5] != s.pod.Status.PodIP || fields[6] != s.pod.Spec.NodeName || fields[7] != "<none>" {
		t.Errorf("get -o wide: %q", fields)
	}
	says(t, "get nodes", s.Kubectl("get", "nodes", "-o", "wide"), s.NodeName(1), "Ready", "containerd://2.", s.NodeIP(1).String())
	says(t, "get svc", s.Kubectl("get", "svc", "-n", "shop"), "web", "NodePort", s.service.Spec.ClusterIP, fmt.Sprintf("80:%d/TCP", nodePort))
	says(t, "get -o yaml", s.Kubectl("get", "pod", "web", "-n", "shop", "-o", "yaml"), "uid: "+string(s.pod.UID), "podIP: "+s.pod.Status.PodIP, "kind: Pod\n")
	says(t, "get all", s.Kubectl("get", "all", "-n", "shop"), "pod/web", "service/web")
	says(t, "get --field-selector", s.Kubectl("get", "pods", "-A", "--field-selector", "status.phase=Running,spec.nodeName="+s.pod.Spec.NodeName), "web")
	says(t, "get --selector of nobody", s.Kubectl("get", "pods", "-n", "shop", "-l", "app in (none)", "-o", "name")+"-", "-")
	says(t, "describe", s.Kubectl("describe", "pod", "web", "-n", "shop"), "Status:           Running", "QoS Class:                   Burstable", "Successfully assigned shop/web to "+s.pod.Spec.NodeName,
		`Container image "wherry.dev/sample:1" already present on machine`, "Readiness:", "http-get http://:http/healthz")
	says(t, "describe svc", s.Kubectl("describe", "svc", "web", "-n", "shop"), s.pod.Status.PodIP+":8080")
	says(t, "describe node", s.Kubectl("describe", "node", s.pod.Spec.NodeName), "web", "KubeletReady")
	says(t, "api-resources", s.Kubectl("api-resources"), "endpointslices", "clusterrolebindings", "leases")
	says(t, "get of nothing", s.KubectlFails("", "get", "pod", "nobody", "-n", "shop"), `Error from server (NotFound): pods "nobody" not found`)
	says(t, "version", s.Kubectl("version"), "Server Version: v1.3")
}

func (s *story) logs(t *testing.T) {
	says(t, "logs", s.Kubectl("logs", "web", "-n", "shop"), "serving on :8080 as web\n")
	stamped := s.Kubectl("logs", "web", "-n", "shop", "--timestamps", "--tail=1", "-c", "c")
	if at, err := time.Parse(time.RFC3339Nano, strings.Fields(stamped)[0]); err != nil || time.Since(at) > 10*time.Minute {
		t.Errorf("--timestamps: %q, %v", stamped, err)
	}
	says(t, "logs of no container", s.KubectlFails("", "logs", "web", "-n", "shop", "-c", "none"), "container none is not valid for pod web")
	says(t, "logs --previous", s.KubectlFails("", "logs", "web", "-n", "shop", "--previous"), `previous terminated container "c" in pod "web" not found`)
}

func (s *story) exec(t *testing.T) {
	says(t, "exec", s.Kubectl("exec", "web", "-n", "shop", "--", "/sample", "get", "http://127.0.0.1:8080/"), "200 OK", "good morning from web")
	says(t, "exec of a command that fails", s.KubectlFails("", "exec", "web", "-n", "shop", "--", "/sample", "get", "http://127.0.0.1:1/"), "connection refused", "command terminated with exit code 1")
	says(t, "exec of nothing", s.KubectlFails("", "exec", "web", "-n", "shop", "--", "/nothing"), "/nothing")
}

// attach watches a short load to its end, and sees its report.
func (s *story) attach(t *testing.T) {
	s.Kubectl("run", "burst", "-n", "shop", "--image=wherry.dev/sample:1", "--restart=Never", "--", "load", "-url", "http://web/", "-requests", "40", "-for", "4s")
	s.Kubectl("wait", "--for=condition=Ready", "pod/burst", "-n", "shop", "--timeout=20s")
	says(t, "attach", s.Kubectl("attach", "burst", "-n", "shop"), `"requests":40`, `"failed":0`)
	s.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/burst", "-n", "shop", "--timeout=20s")
	says(t, "get", s.Kubectl("get", "pod", "burst", "-n", "shop"), "0/1", "Completed")
	says(t, "logs of an ended pod", s.Kubectl("logs", "burst", "-n", "shop"), "load begins", `"failed":0`)
	s.Kubectl("delete", "pod", "burst", "-n", "shop")
}

func (s *story) portForward(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr outside.SafeBuffer
	cmd := s.KubectlStart(ctx, &stdout, &stderr, "port-forward", "svc/web", "-n", "shop", ":80")
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	var port string
	outside.Eventually(t, 10*time.Second, func() error {
		_, after, ok := strings.Cut(stdout.String(), "127.0.0.1:")
		if port, _, _ = strings.Cut(after, " "); !ok || port == "" {
			return fmt.Errorf("port-forward says %q, %q", stdout.String(), stderr.String())
		}
		return nil
	})
	client := &http.Client{Timeout: 5 * time.Second}
	for range 3 {
		if got, err := outside.Get(client, "http://"+net.JoinHostPort("127.0.0.1", port)+"/"); err != nil || got != "good morning from web\n" {
			t.Errorf("through the forwarded port: %q, %v", got, err)
		}
	}
}

// watch sees a pod come and go.
func (s *story) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr outside.SafeBuffer
	cmd := s.KubectlStart(ctx, &stdout, &stderr, "get", "pods", "-n", "shop", "--watch", "--output-watch-events", "--no-headers")
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	until := func(what string) {
		outside.Eventually(t, 20*time.Second, func() error {
			for line := range strings.Lines(stdout.String()) {
				if strings.Join(strings.Fields(line)[:min(4, len(strings.Fields(line)))], " ") == what {
					return nil
				}
			}
			return fmt.Errorf("the watch says %q, not yet %q: %s", stdout.String(), what, stderr.String())
		})
	}
	until("ADDED web 1/1 Running")
	s.Kubectl("run", "guest", "-n", "shop", "--image=wherry.dev/sample:1")
	until("ADDED guest 0/1 Pending")
	until("MODIFIED guest 1/1 Running")
	s.Kubectl("delete", "pod", "guest", "-n", "shop")
	until("MODIFIED guest 1/1 Terminating")
	until("DELETED guest 0/1 Completed")
}

// apply keeps a ConfigMap and a Deployment in step with a file, on the client's side and on the server's.
func (s *story) apply(t *testing.T) {
	const words = `---
{apiVersion: v1, kind: ConfigMap, metadata: {name: NAME, namespace: shop}, data: DATA}`
	for _, side := range []struct {
		name string
		args []string
		did  string
	}{{"client", nil, ""}, {"server", []string{"--server-side"}, "serverside-applied"}} {
		did := func(client string) string {
			if side.did != "" {
				return side.did
			}
			return client
		}
		apply := func(data string, more ...string) string {
			in := strings.NewReplacer("NAME", side.name, "DATA", data).Replace(words)
			return s.KubectlInput(in, append(append([]string{"apply", "-f", "-"}, side.args...), more...)...)
		}
		read := func() string {
			return s.Kubectl("get", "configmap", side.name, "-n", "shop", "-o", "jsonpath={.data}")
		}
		says(t, side.name, apply("{a: '1', b: '2'}"), "configmap/"+side.name+" "+did("created"))
		s.Kubectl("patch", "configmap", side.name, "-n", "shop", "--type=merge", "-p", `{"data":{"c":"3"}}`) // somebody else's
		says(t, side.name, apply("{a: '5'}"), "configmap/"+side.name+" "+did("configured"))
		if got := read(); got != `{"a":"5","c":"3"}` {
			t.Errorf("%s-side apply: data is %s", side.name, got)
		}
		apply("{a: '6'}", "--dry-run=server")
		if got := read(); got != `{"a":"5","c":"3"}` {
			t.Errorf("%s-side apply: a dry run left %s", side.name, got)
		}
	}
	s.Kubectl("patch", "configmap", "server", "-n", "shop", "--type=json", "-p", `[{"op":"replace","path":"/data/a","value":"7"}]`)
	says(t, "a conflict", s.KubectlFails(strings.NewReplacer("NAME", "server", "DATA", "{a: '8'}").Replace(words), "apply", "--server-side", "-f", "-"), "conflict", ".data.a")
	says(t, "diff", s.KubectlFails(strings.NewReplacer("NAME", "server", "DATA", "{a: '9'}").Replace(words), "diff", "-f", "-"), `+  a: "9"`)

	says(t, "strategic patch", s.Kubectl("patch", "pod", "web", "-n", "shop", "-p", `{"metadata":{"labels":{"tier":"front"}}}`), "pod/web patched")
	says(t, "label", s.Kubectl("label", "pod", "web", "-n", "shop", "tier-"), "unlabeled")
	says(t, "annotate", s.Kubectl("annotate", "pod", "web", "-n", "shop", "note=x"), "annotated")
}

func (s *story) explain(t *testing.T) {
	says(t, "explain", s.Kubectl("explain", "pod.spec.containers.image"), "KIND:       Pod", "FIELD: image <string>", "Container image name.")
	says(t, "explain --recursive", s.Kubectl("explain", "service.spec", "--recursive"), "sessionAffinityConfig", "clientIP", "enum: ")
}

// ownKubectl is the one that comes with the binary.
func (s *story) ownKubectl(t *testing.T) {
	t.Setenv("KUBECONFIG", s.Kubeconfig)
	says(t, "wherry kubectl", s.Wherry("kubectl", "--name", s.Name, "get", "pod", "web", "-n", "shop", "-o", "name"), "pod/web")
	says(t, "wherry list", s.Wherry("list"), s.Name, "wherry-"+s.Name)
	says(t, "wherry trace", s.Wherry("trace", "pod", "web", "-n", "shop", "--name", s.Name), "creation:", "sandbox", "kubelet@"+s.pod.Spec.NodeName)
}
