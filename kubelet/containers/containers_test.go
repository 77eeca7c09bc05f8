package containers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"wherry.dev/wherry/kubelet/runtime"
)

func ptr[T any](v T) *T { return &v }

func TestExpand(t *testing.T) {
	lookup := func(n string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "two", "EMPTY": ""}[n]
		return v, ok
	}
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "1", "x$(A)y$(B)z": "x1ytwoz", "$(C)": "$(C)", "$$(A)": "$(A)", "$$$(A)": "$1", "$A": "$A",
		"$(A": "$(A", "$": "$", "$$": "$", "$()": "$()", "$(EMPTY)|": "|", "$($(A))": "$($(A))", "$(A)$": "1$",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestExpandLeavesTheRestAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a-z()A-Z ]*`).Draw(t, "s")
		if got := Expand(s, func(string) (string, bool) { return "!", true }); got != s {
			t.Fatalf("Expand(%q) = %q though there is no $", s, got)
		}
	})
}

type objects map[string]map[string]string

func (o objects) ConfigMap(_ context.Context, _ types.UID, _, name string) (*v1.ConfigMap, error) {
	if d, ok := o["cm/"+name]; ok {
		return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: d}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (o objects) Secret(_ context.Context, _ types.UID, _, name string) (*v1.Secret, error) {
	if d, ok := o["s/"+name]; ok {
		s := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{}}
		for k, v := range d {
			s.Data[k] = []byte(v)
		}
		return s, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func svc(ns, name, ip string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func TestEnv(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"l": "v"}}, Spec: v1.PodSpec{NodeName: "n"}}
	src := EnvSources{
		Objects:  objects{"cm/c": {"K": "from c", "a b": "x", "bad=": "y"}, "s/s": {"K": "from s", "P": "pw"}},
		Services: []*v1.Service{svc("default", "kubernetes", "10.96.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}), svc("ns", "my-web", "10.96.0.2", v1.ServicePort{Port: 80}), svc("ns", "headless", "None", v1.ServicePort{Port: 1})},
		Node:     &v1.Node{Status: v1.NodeStatus{Allocatable: v1.ResourceList{"cpu": resource.MustParse("1500m")}}},
		HostIPs:  []string{"192.0.2.1", "2001:db8::1"}, PodIPs: []string{"10.0.0.1"},
	}
	field := func(p string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: p}}
	}
	c := &v1.Container{Name: "c",
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"memory": resource.MustParse("100Mi")}},
		EnvFrom:   []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}, {Prefix: "S_", SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}}, {ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Optional: ptr(true)}}},
		Env: []v1.EnvVar{{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "L", ValueFrom: field("metadata.labels['l']")}, {Name: "HOSTS", ValueFrom: field("status.hostIPs")},
			{Name: "CPU", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "requests.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "K", Value: "own, was $(K)"}, {Name: "LATER", Value: "$(MY_WEB_SERVICE_HOST):$(MY_WEB_SERVICE_PORT) $(AFTER)"}, {Name: "AFTER", Value: "z"},
			{Name: "GONE", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "none", Optional: ptr(true)}}}}}
	env, invalid, err := Env(t.Context(), pod, c, src)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range env {
		got[v.Name] = v.Value
	}
	for name, want := range map[string]string{"NAME": "p", "L": "v", "HOSTS": "192.0.2.1,2001:db8::1", "CPU": "2", "MEM": "100", "K": "own, was from c", "S_P": "pw", "a b": "x",
		"LATER": "10.96.0.2:80 $(AFTER)", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443", "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.2"} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"GONE", "bad=", "HEADLESS_SERVICE_HOST"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is set", name)
		}
	}
	if len(invalid) != 1 || !strings.Contains(invalid[0], "Keys [bad=]") {
		t.Errorf("invalid: %v", invalid)
	}
	pod.Spec.EnableServiceLinks = ptr(false)
	env, _, _ = Env(t.Context(), pod, &v1.Container{}, src)
	if slices.ContainsFunc(env, func(v Var) bool { return strings.HasPrefix(v.Name, "MY_WEB") }) || len(env) == 0 {
		t.Errorf("enableServiceLinks false: %v", env)
	}
	for want, bad := range map[string]v1.EnvVarSource{
		`configmap "x" not found`:                   {ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "x"}, Key: "k"}},
		"couldn't find key k in ConfigMap ns/c":     {ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "c"}, Key: "k"}},
		`secret "x" not found`:                      {SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "x"}, Key: "k"}},
		"couldn't find key k in Secret ns/s":        {SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "k"}},
		"unsupported fieldPath: spec.restartPolicy": {FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.restartPolicy"}},
	} {
		if _, _, err := Env(t.Context(), pod, &v1.Container{Env: []v1.EnvVar{{Name: "X", ValueFrom: &bad}}}, src); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# c\nnameserver 192.0.2.53\nsearch corp.example. .\noptions edns0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := DNS{ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", ResolvConf: file}
	for _, c := range []struct {
		spec v1.PodSpec
		want string
	}{
		{v1.PodSpec{DNSPolicy: "ClusterFirst"}, "[10.96.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"},
		{v1.PodSpec{DNSPolicy: "Default"}, "[192.0.2.53] [corp.example .] [edns0]"},
		{v1.PodSpec{DNSPolicy: "ClusterFirst", HostNetwork: true}, "[192.0.2.53] [corp.example .] [edns0]"},
		{v1.PodSpec{DNSPolicy: "ClusterFirstWithHostNet", HostNetwork: true}, "[10.96.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"},
		{v1.PodSpec{DNSPolicy: "None", DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}}}}, "[1.1.1.1] [] [ndots:2]"},
		{v1.PodSpec{DNSPolicy: "ClusterFirst", DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"10.96.0.10", "a", "b", "c"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("1")}}}}, "[10.96.0.10 a b] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:1]"},
	} {
		got, _, err := d.Config(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprint(got.Servers, " ", got.Searches, " ", got.Options); text != c.want {
			t.Errorf("%s: %s, want %s", c.spec.DNSPolicy, text, c.want)
		}
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("x", 62) + ".-y"
	for _, c := range []struct {
		pod  v1.Pod
		want string
	}{
		{v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0"}}, "web-0"},
		{v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: long}}, strings.Repeat("x", 62)},
		{v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "ns"}, Spec: v1.PodSpec{Hostname: "h", Subdomain: "sub"}}, "h"},
		{v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "ns"}, Spec: v1.PodSpec{Hostname: "h", Subdomain: "sub", SetHostnameAsFQDN: ptr(true)}}, "h.sub.ns.svc.cluster.local"},
		{v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0"}, Spec: v1.PodSpec{HostnameOverride: ptr("o.example")}}, "o.example"},
	} {
		if got, err := kernelHostname(&c.pod, "cluster.local"); err != nil || got != c.want {
			t.Errorf("%q %v, want %q", got, err, c.want)
		}
	}
	if _, err := kernelHostname(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: strings.Repeat("n", 60)}, Spec: v1.PodSpec{Subdomain: "s", SetHostnameAsFQDN: ptr(true)}}, "cluster.local"); err == nil {
		t.Error("a host name of more than 64 characters is no error")
	}
}

func TestSecurity(t *testing.T) {
	zero, uid := int64(0), int64(1000)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}, Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{RunAsUser: &uid, FSGroup: ptr(int64(7)), SupplementalGroups: []int64{8}}}}
	c := &v1.Container{Name: "c", SecurityContext: &v1.SecurityContext{RunAsUser: &zero, Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}, Drop: []v1.Capability{"ALL"}}, ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false)}}
	s, err := containerSecurity(pod, c, Input{})
	if err != nil {
		t.Fatal(err)
	}
	if s.RunAsUser.GetValue() != 0 || !s.ReadonlyRootfs || !s.NoNewPrivs || !slices.Equal(s.SupplementalGroups, []int64{7, 8}) || s.Seccomp.ProfileType != runtime.ProfileUnconfined || len(s.MaskedPaths) == 0 {
		t.Errorf("%+v", s)
	}
	yes := true
	for want, x := range map[string]struct {
		sc  *v1.SecurityContext
		img *runtime.Image
	}{
		"": {&v1.SecurityContext{RunAsNonRoot: &yes}, nil},
		`container's runAsUser breaks non-root policy (pod: "p_ns(u)", container: c)`: {&v1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: &zero}, nil},
	} {
		_, err := containerSecurity(pod, &v1.Container{Name: "c", SecurityContext: x.sc}, Input{Image: x.img})
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	pod.Spec.SecurityContext = nil
	for want, img := range map[string]*runtime.Image{
		"container has runAsNonRoot and image will run as root":                                           {UID: &zero},
		"container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root": {Username: "app"},
	} {
		if _, err := containerSecurity(pod, &v1.Container{Name: "c", SecurityContext: &v1.SecurityContext{RunAsNonRoot: &yes}}, Input{Image: img}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := seccomp(&v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("../../etc/passwd")}, SecurityDefaults{SeccompRoot: "/r"}); err == nil {
		t.Error("a seccomp profile outside the directory is taken")
	}
}

func TestResources(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
		Requests: v1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("1Gi")}, Limits: v1.ResourceList{"cpu": resource.MustParse("1500m"), "memory": resource.MustParse("2Gi"), "hugepages-2Mi": resource.MustParse("4Mi")}}}}}}
	r := Resources(pod, &pod.Spec.Containers[0], NodeFacts{MemoryCapacity: 4 << 30})
	if r.CpuShares != 256 || r.CpuQuota != 150000 || r.MemoryLimitInBytes != 2<<30 || r.OomScoreAdj != 750 || len(r.HugepageLimits) != 1 || r.HugepageLimits[0].PageSize != "2MB" {
		t.Errorf("%+v", r)
	}
	best := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	if r := Resources(best, &best.Spec.Containers[0], NodeFacts{MemoryCapacity: 4 << 30}); r.CpuShares != 2 || r.CpuQuota != 0 || r.OomScoreAdj != 1000 {
		t.Errorf("%+v", r)
	}
}
