// Package containers turns a Pod and its containers into what the container runtime takes: environment, command,
// security context, mounts, resources, names and resolver. It decides and formats; it makes no call to the runtime.
// It is used by the pod worker only.
package containers

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"wherry.dev/wherry/kubelet/runtime"
)

// Hash identifies the part of a container's spec which, when it changes, makes the kubelet restart the container: its name and
// image. Everything else of a running pod is immutable or changed in place.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	// Marshalling two strings cannot fail.
	b, _ := json.Marshal(struct{ Name, Image string }{c.Name, c.Image})
	h.Write(b)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// Input is what a container's configuration needs besides the pod.
type Input struct {
	Attempt     int    // restart count
	ImageRef    string // as the runtime knows the image
	Image       *runtime.Image
	Env         []Var
	Mounts      []*runtime.Mount // of volumes
	Devices     []*runtime.Device
	HostsFile   string // host path of the pod's /etc/hosts; empty: not managed
	Termination string // host path of the file behind the termination message path; empty: none
	PodLogDir   string // the sandbox's log directory
	Node        NodeFacts
	Security    SecurityDefaults
	TargetID    string // for an ephemeral container: the container whose PID namespace it joins
	Kind        string // runtime.ContainerKind...
}

// Config builds the configuration of one container. Its errors are the user's to mend and are shown in the
// container's waiting state.
func Config(pod *v1.Pod, c *v1.Container, in Input) (*runtime.ContainerConfig, error) {
	security, err := containerSecurity(pod, c, in)
	if err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) {
		for i := range in.Env {
			if in.Env[i].Name == name {
				return in.Env[i].Value, true
			}
		}
		return "", false
	}
	config := &runtime.ContainerConfig{
		Metadata:   &runtime.ContainerMetadata{Name: c.Name, Attempt: uint32(in.Attempt)},
		Image:      &runtime.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:    expandAll(c.Command, lookup),
		Args:       expandAll(c.Args, lookup),
		WorkingDir: c.WorkingDir,
		Labels: map[string]string{
			runtime.LabelPodName: pod.Name, runtime.LabelPodNamespace: pod.Namespace,
			runtime.LabelPodUID: string(pod.UID), runtime.LabelContainerName: c.Name,
		},
		Annotations: annotations(pod, c, in),
		LogPath:     LogFile(c.Name, in.Attempt),
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Devices: in.Devices,
		Linux: &runtime.LinuxContainerConfig{
			Resources:       Resources(pod, c, in.Node),
			SecurityContext: security,
		},
	}
	for _, v := range in.Env {
		config.Envs = append(config.Envs, &runtime.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	if s := StopSignal(c); s != "" {
		n, ok := runtime.SignalByName(s)
		if !ok {
			return nil, fmt.Errorf("stop signal %q is not one the container runtime interface knows", s)
		}
		config.StopSignal = n
	}
	config.Mounts = mounts(c, in)
	return config, nil
}

// StopSignal is the signal that the container's spec asks for, or "" for the image's own (KEP-4960).
func StopSignal(c *v1.Container) string {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return ""
	}
	return string(*c.Lifecycle.StopSignal)
}

func annotations(pod *v1.Pod, c *v1.Container, in Input) map[string]string {
	a := map[string]string{
		runtime.AnnotationHash:              Hash(c),
		runtime.AnnotationRestartCount:      strconv.Itoa(in.Attempt),
		runtime.AnnotationTerminationPath:   c.TerminationMessagePath,
		runtime.AnnotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if in.Kind != "" {
		a[runtime.AnnotationContainerKind] = in.Kind
	}
	if in.Termination != "" {
		a[runtime.AnnotationTerminationHostPath] = in.Termination
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		a[runtime.AnnotationPodGracePeriod] = strconv.FormatInt(*g, 10)
	}
	if len(c.Ports) > 0 {
		// Marshalling plain structs cannot fail; the annotations are for whoever finds the container without its pod.
		b, _ := json.Marshal(c.Ports)
		a[runtime.AnnotationPorts] = string(b)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		b, _ := json.Marshal(c.Lifecycle.PreStop)
		a[runtime.AnnotationPreStop] = string(b)
	}
	return a
}

// mounts adds the managed files to the volumes' mounts, unless the container mounts something of its own there.
func mounts(c *v1.Container, in Input) []*runtime.Mount {
	all := append([]*runtime.Mount(nil), in.Mounts...)
	taken := func(path string) bool {
		for i := range c.VolumeMounts {
			if strings.TrimRight(c.VolumeMounts[i].MountPath, "/") == path {
				return true
			}
		}
		return false
	}
	if in.HostsFile != "" && !taken("/etc/hosts") {
		all = append(all, &runtime.Mount{ContainerPath: "/etc/hosts", HostPath: in.HostsFile,
			Readonly: c.SecurityContext != nil && c.SecurityContext.ReadOnlyRootFilesystem != nil && *c.SecurityContext.ReadOnlyRootFilesystem})
	}
	if in.Termination != "" && c.TerminationMessagePath != "" && !taken(c.TerminationMessagePath) {
		all = append(all, &runtime.Mount{ContainerPath: c.TerminationMessagePath, HostPath: in.Termination})
	}
	return all
}

// LogDirName is the name of a pod's directory below the logs' root, as upstream names it.
func LogDirName(namespace, name, uid string) string { return namespace + "_" + name + "_" + uid }

// LogFile is a container instance's log below the pod's log directory.
func LogFile(container string, attempt int) string {
	return container + "/" + strconv.Itoa(attempt) + ".log"
}

// Title names a pod in errors and events as upstream does: name_namespace(uid).
func Title(pod *v1.Pod) string { return pod.Name + "_" + pod.Namespace + "(" + string(pod.UID) + ")" }

// FromAnnotations is as much of a container's spec as stopping it takes, for a container whose pod is not known any more.
func FromAnnotations(name string, annotations map[string]string) *v1.Container {
	c := &v1.Container{Name: name}
	var preStop v1.LifecycleHandler
	if text := annotations[runtime.AnnotationPreStop]; text != "" && json.Unmarshal([]byte(text), &preStop) == nil {
		c.Lifecycle = &v1.Lifecycle{PreStop: &preStop}
	}
	// A text that does not parse leaves no ports: named ports of the hook are then not found, which its event says.
	_ = json.Unmarshal([]byte(annotations[runtime.AnnotationPorts]), &c.Ports)
	return c
}
