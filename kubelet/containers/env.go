package containers

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Var is one environment variable.
type Var struct{ Name, Value string }

// Objects reads the objects that environment variables come from. The answers are shared and must not be written.
// pod is who asks, so that an object is let go with its last pod. A missing object is an apierrors NotFound.
type Objects interface {
	ConfigMap(ctx context.Context, pod types.UID, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, pod types.UID, namespace, name string) (*v1.Secret, error)
}

// EnvSources is where a container's environment comes from, besides its spec.
type EnvSources struct {
	Objects  Objects
	Services []*v1.Service // of the pod's namespace, and default/kubernetes; any order
	Node     *v1.Node      // for resourceFieldRef without a limit; may be nil
	HostIPs  []string
	PodIPs   []string
}

// Env resolves a container's environment, in the order of the spec: envFrom, then env (which wins), then service
// variables that neither has set. invalid lists keys of envFrom that cannot be names of variables, by source.
func Env(ctx context.Context, pod *v1.Pod, c *v1.Container, src EnvSources) (env []Var, invalid []string, err error) {
	set := map[string]int{} // name to index in env
	put := func(name, value string) {
		if i, ok := set[name]; ok {
			env[i].Value = value
			return
		}
		set[name] = len(env)
		env = append(env, Var{name, value})
	}
	for i := range c.EnvFrom {
		from := &c.EnvFrom[i]
		keys, what, err := envFrom(ctx, pod, from, src)
		if err != nil {
			return nil, nil, err
		}
		var bad []string
		for _, kv := range keys {
			name := from.Prefix + kv.Name
			if len(validation.IsRelaxedEnvVarName(name)) > 0 {
				bad = append(bad, kv.Name)
				continue
			}
			put(name, kv.Value)
		}
		if len(bad) > 0 {
			invalid = append(invalid, fmt.Sprintf("Keys [%s] from the EnvFrom %s were skipped since they are considered invalid environment variable names.", strings.Join(bad, ", "), what))
		}
	}
	services := serviceEnv(pod, src.Services)
	lookup := func(name string) (string, bool) {
		if i, ok := set[name]; ok {
			return env[i].Value, true
		}
		v, ok := services[name]
		return v, ok
	}
	for i := range c.Env {
		e := &c.Env[i]
		value := e.Value
		switch {
		case e.Value != "":
			value = Expand(e.Value, lookup)
		case e.ValueFrom != nil:
			v, ok, err := valueFrom(ctx, pod, c, e.ValueFrom, src)
			if err != nil {
				return nil, nil, err
			}
			if !ok {
				continue
			}
			value = v
		}
		put(e.Name, value)
	}
	names := make([]string, 0, len(services))
	for name := range services {
		if _, ok := set[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		put(name, services[name])
	}
	return env, invalid, nil
}

// envFrom lists a source's pairs sorted by key. A missing optional source has none.
func envFrom(ctx context.Context, pod *v1.Pod, from *v1.EnvFromSource, src EnvSources) ([]Var, string, error) {
	var pairs []Var
	var what string
	switch {
	case from.ConfigMapRef != nil:
		cm, err := configMap(ctx, src.Objects, pod, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		if err != nil || cm == nil {
			return nil, "", err
		}
		what = "configMap " + pod.Namespace + "/" + cm.Name
		for k, v := range cm.Data {
			pairs = append(pairs, Var{k, v})
		}
	case from.SecretRef != nil:
		s, err := secret(ctx, src.Objects, pod, from.SecretRef.Name, from.SecretRef.Optional)
		if err != nil || s == nil {
			return nil, "", err
		}
		what = "secret " + pod.Namespace + "/" + s.Name
		for k, v := range s.Data {
			pairs = append(pairs, Var{k, string(v)})
		}
	}
	slices.SortFunc(pairs, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return pairs, what, nil
}

func configMap(ctx context.Context, o Objects, pod *v1.Pod, name string, optional *bool) (*v1.ConfigMap, error) {
	cm, err := o.ConfigMap(ctx, pod.UID, pod.Namespace, name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read configmap %s/%s: %w", pod.Namespace, name, err)
	}
	return cm, nil
}

func secret(ctx context.Context, o Objects, pod *v1.Pod, name string, optional *bool) (*v1.Secret, error) {
	s, err := o.Secret(ctx, pod.UID, pod.Namespace, name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s: %w", pod.Namespace, name, err)
	}
	return s, nil
}

// valueFrom resolves one variable; ok is false for an optional source that is not there.
func valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, from *v1.EnvVarSource, src EnvSources) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = Field(pod, from.FieldRef.FieldPath, src.HostIPs, src.PodIPs)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = ResourceField(pod, c, from.ResourceFieldRef, src.Node)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := configMap(ctx, src.Objects, pod, ref.Name, ref.Optional)
		if err != nil || cm == nil {
			return "", false, err
		}
		if v, ok := cm.Data[ref.Key]; ok {
			return v, true, nil
		}
		if ref.Optional != nil && *ref.Optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := secret(ctx, src.Objects, pod, ref.Name, ref.Optional)
		if err != nil || s == nil {
			return "", false, err
		}
		if v, ok := s.Data[ref.Key]; ok {
			return string(v), true, nil
		}
		if ref.Optional != nil && *ref.Optional {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
	case from.FileKeyRef != nil:
		return "", false, fmt.Errorf("fileKeyRef of volume %s: this kubelet does not read variables from files yet", from.FileKeyRef.VolumeName)
	}
	return "", true, nil
}

// serviceEnv makes the variables of the services the pod may see: {NAME}_SERVICE_HOST and _PORT, and the older
// container-link ones. Upstream's rules: default/kubernetes is always seen, the pod's own namespace unless
// enableServiceLinks is false, and a service without a cluster address never.
func serviceEnv(pod *v1.Pod, services []*v1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	env := map[string]string{}
	add := func(s *v1.Service) {
		name := envName(s.Name)
		ip := s.Spec.ClusterIP
		first := &s.Spec.Ports[0]
		env[name+"_SERVICE_HOST"] = ip
		env[name+"_SERVICE_PORT"] = strconv.Itoa(int(first.Port))
		for i := range s.Spec.Ports {
			if p := &s.Spec.Ports[i]; p.Name != "" {
				env[name+"_SERVICE_PORT_"+envName(p.Name)] = strconv.Itoa(int(p.Port))
			}
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			protocol := string(p.Protocol)
			if protocol == "" {
				protocol = "TCP"
			}
			port := strconv.Itoa(int(p.Port))
			url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
			if i == 0 {
				env[name+"_PORT"] = url
			}
			prefix := name + "_PORT_" + port + "_" + strings.ToUpper(protocol)
			env[prefix] = url
			env[prefix+"_PROTO"] = strings.ToLower(protocol)
			env[prefix+"_PORT"] = port
			env[prefix+"_ADDR"] = ip
		}
	}
	usable := func(s *v1.Service) bool {
		return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != v1.ClusterIPNone && len(s.Spec.Ports) > 0
	}
	master := func(s *v1.Service) bool { return s.Namespace == metav1.NamespaceDefault && s.Name == "kubernetes" }
	// The master's variables first, so that a service of the same name in the pod's namespace wins, as upstream.
	for _, s := range services {
		if master(s) && usable(s) {
			add(s)
		}
	}
	for _, s := range services {
		if links && s.Namespace == pod.Namespace && !master(s) && usable(s) {
			add(s)
		}
	}
	return env
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
