package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What the downward API offers to environment variables and to files.
var (
	envFieldPaths = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFieldPaths = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	resourcePaths  = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (c *podCheck) env(w *where, vars []corev1.EnvVar) {
	for i := range vars {
		at, v := w.at(i), &vars[i]
		if v.Name == "" {
			c.required(at.field("name"), "")
		} else {
			c.envName(at.field("name"), v.Name)
		}
		if v.ValueFrom != nil {
			c.envSource(at.field("valueFrom"), v)
		}
	}
}

// envName checks the name of an environment variable: since 1.34 any printable ASCII but "=".
func (c *podCheck) envName(w *where, name string) {
	for i := 0; i < len(name); i++ {
		if name[i] < ' ' || name[i] > '~' || name[i] == '=' {
			c.each(w, name, validation.IsRelaxedEnvVarName(name))
			return
		}
	}
	if name == "" {
		c.each(w, name, validation.IsRelaxedEnvVarName(name))
	}
}

func (c *podCheck) envSource(w *where, v *corev1.EnvVar) {
	from, sources := v.ValueFrom, 0
	if from.FieldRef != nil {
		sources++
		c.fieldSelector(w.field("fieldRef"), from.FieldRef, envFieldPaths)
	}
	if from.ResourceFieldRef != nil {
		sources++
		c.resourceSelector(w.field("resourceFieldRef"), from.ResourceFieldRef, false)
	}
	if from.ConfigMapKeyRef != nil {
		sources++
		c.keySelector(w.field("configMapKeyRef"), from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
	}
	if from.SecretKeyRef != nil {
		sources++
		c.keySelector(w.field("secretKeyRef"), from.SecretKeyRef.Name, from.SecretKeyRef.Key)
	}
	if from.FileKeyRef != nil {
		sources++
		c.fileKeySelector(w.field("fileKeyRef"), from.FileKeyRef)
	}
	switch {
	case sources == 0:
		c.invalid(w, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		c.invalid(w, "", "may not be specified when `value` is not empty")
	case sources > 1:
		c.invalid(w, "", "may not have more than one field specified at a time")
	}
}

func (c *podCheck) keySelector(w *where, name, key string) {
	c.dnsSubdomain(w.field("name"), name)
	if key == "" {
		c.required(w.field("key"), "")
	} else {
		c.each(w.field("key"), key, validation.IsConfigMapKey(key))
	}
}

// fileKeySelector checks a variable that is read from a file in an emptyDir (KEP-3721). That the volume is one is checked when
// all volumes are known to be right or wrong.
func (c *podCheck) fileKeySelector(w *where, s *corev1.FileKeySelector) {
	if s.Key == "" {
		c.required(w.field("key"), "")
	} else {
		c.envName(w.field("key"), s.Key)
	}
	if s.VolumeName == "" {
		c.required(w.field("volumeName"), "")
	} else {
		c.dnsLabel(w.field("volumeName"), s.VolumeName)
	}
	if s.Path == "" {
		c.required(w.field("path"), "")
	} else {
		c.noBacksteps(w.field("path"), s.Path)
	}
}

// fileKeyVolumes checks that variables are read from files of emptyDir volumes only.
func (c *podCheck) fileKeyVolumes(w *where) {
	var volumes map[string]*corev1.Volume // made when it is needed
	check := func(w *where, container *corev1.Container) {
		for i := range container.Env {
			from := container.Env[i].ValueFrom
			if from == nil || from.FileKeyRef == nil {
				continue
			}
			name := from.FileKeyRef.VolumeName
			at := w.field("env").at(i).field("valueFrom").field("fileKeyRef").field("volumeName")
			if volumes == nil {
				volumes = make(map[string]*corev1.Volume, len(c.spec.Volumes))
				for j := range c.spec.Volumes {
					volumes[c.spec.Volumes[j].Name] = &c.spec.Volumes[j] // the last of that name
				}
			}
			if volume := volumes[name]; volume == nil {
				c.notFound(at, name)
			} else if volume.EmptyDir == nil {
				c.invalid(at, name, "referenced volume must be of type emptyDir")
			}
		}
	}
	for i := range c.spec.InitContainers {
		check(w.field("initContainers").at(i), &c.spec.InitContainers[i])
	}
	for i := range c.spec.Containers {
		check(w.field("containers").at(i), &c.spec.Containers[i])
	}
	for i := range c.spec.EphemeralContainers {
		check(w.field("ephemeralContainers").at(i), (*corev1.Container)(&c.spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

func (c *podCheck) envFrom(w *where, sources []corev1.EnvFromSource) {
	for i := range sources {
		at, s := w.at(i), &sources[i]
		if s.Prefix != "" {
			c.envName(at.field("prefix"), s.Prefix)
		}
		if s.ConfigMapRef != nil {
			c.sourceName(at.field("configMapRef").field("name"), s.ConfigMapRef.Name)
		}
		if s.SecretRef != nil {
			c.sourceName(at.field("secretRef").field("name"), s.SecretRef.Name)
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			c.invalid(w, "", "must specify one of: `configMapRef` or `secretRef`")
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			c.invalid(w, "", "may not have more than one field specified at a time")
		}
	}
}

// sourceName checks the name of a config map or secret. Upstream takes it for a prefix here, which lets
// a trailing dash pass.
func (c *podCheck) sourceName(w *where, name string) {
	if name == "" {
		c.required(w, "")
		return
	}
	if !isDNSSubdomain(name) {
		c.each(w, name, NameIsDNSSubdomain(name, true))
	}
}

// fieldSelector checks a reference to a field of the pod itself.
func (c *podCheck) fieldSelector(w *where, s *corev1.ObjectFieldSelector, paths []string) {
	if s.APIVersion == "" {
		c.required(w.field("apiVersion"), "")
		return
	}
	if s.FieldPath == "" {
		c.required(w.field("fieldPath"), "")
		return
	}
	unknown := func(detail string) {
		c.invalid(w.field("fieldPath"), s.FieldPath, "error converting fieldPath: "+detail)
	}
	if s.APIVersion != "v1" {
		unknown("unsupported pod version: " + s.APIVersion)
		return
	}
	if path, key, ok := subscript(s.FieldPath); ok {
		switch path {
		case "metadata.annotations":
			c.qualifiedName(w, strings.ToLower(key))
		case "metadata.labels":
			c.qualifiedName(w, key)
		default:
			unknown("field label does not support subscript: " + s.FieldPath)
		}
		return
	}
	path := s.FieldPath
	switch path {
	case "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.phase", "status.podIP", "status.podIPs":
	case "spec.host": // what clients called spec.nodeName in v1's first days
		path = "spec.nodeName"
	default:
		unknown("field label not supported: " + path)
		return
	}
	knownValue(&c.faults, w.field("fieldPath"), path, paths)
}

// subscript takes metadata.labels['key'] apart.
func subscript(fieldPath string) (path, key string, ok bool) {
	inner, closed := strings.CutSuffix(fieldPath, "']")
	if !closed {
		return "", "", false
	}
	path, key, ok = strings.Cut(inner, "['")
	return path, key, ok && path != ""
}

// resourceSelector checks a reference to a container's requests or limits. In a file the container must be named.
func (c *podCheck) resourceSelector(w *where, s *corev1.ResourceFieldSelector, file bool) {
	switch {
	case file && s.ContainerName == "":
		c.required(w.field("containerName"), "")
	case s.Resource == "":
		c.required(w.field("resource"), "")
	case strings.HasPrefix(s.Resource, "limits.hugepages-"), strings.HasPrefix(s.Resource, "requests.hugepages-"):
	default:
		knownValue(&c.faults, w.field("resource"), s.Resource, resourcePaths)
	}
	if s.Divisor.IsZero() {
		return
	}
	const sizes = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the %s resource"
	_, name, _ := strings.Cut(s.Resource, ".")
	switch {
	case s.Resource != "limits."+name && s.Resource != "requests."+name:
	case name == "cpu":
		divisor := s.Divisor // String keeps what it makes, and this object is not ours
		if d := divisor.String(); d != "1" && d != "1m" {
			c.invalid(w.field("divisor"), s.Resource, "only divisor's values 1m and 1 are supported with the cpu resource")
		}
	case name == "memory" && !isSizeUnit(s.Divisor):
		c.invalid(w.field("divisor"), s.Resource, fmt.Sprintf(sizes, "memory"))
	case name == "ephemeral-storage" && !isSizeUnit(s.Divisor):
		c.invalid(w.field("divisor"), s.Resource, fmt.Sprintf(sizes, "local ephemeral storage"))
	case strings.HasPrefix(name, "hugepages-") && !isSizeUnit(s.Divisor):
		c.invalid(w.field("divisor"), s.Resource, fmt.Sprintf(sizes, "hugepages"))
	}
}

// isSizeUnit reports whether q is one of some unit of size.
func isSizeUnit(q resource.Quantity) bool {
	switch q.String() {
	case "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei":
		return true
	}
	return false
}
