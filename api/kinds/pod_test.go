package kinds

import (
	"context"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/warning"
	"pgregory.net/rapid"
	"sigs.k8s.io/randfill"
)

// randomPod fills a pod with nonsense, now and then with words that mean something.
func randomPod(seed int64) *corev1.Pod {
	words := []string{"", "a", "x:1", "a/b", "..", "/abs", "Localhost", "Always", "Never", "In", "Exists", "windows", "linux", "metadata.labels['a']", "limits.cpu", "1.2.3.4", strings.Repeat("a", 300)}
	pod := &corev1.Pod{}
	random := rand.New(rand.NewSource(seed))
	randfill.New().RandSource(random).NilChance(0.1+0.6*random.Float64()).NumElements(0, 3).MaxDepth(12).Funcs(
		func(s *string, c randfill.Continue) { *s = words[c.Intn(len(words))] },
		func(*metav1.FieldsV1, randfill.Continue) {},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewMilliQuantity(int64(c.Intn(3000)-500), resource.DecimalSI)
		},
		func(l *corev1.ResourceList, c randfill.Continue) {
			for _, name := range []corev1.ResourceName{"cpu", "memory", "hugepages-2Mi", "hugepages-", "example.com/x", "bad name"} {
				if c.Intn(3) == 0 {
					if *l == nil {
						*l = corev1.ResourceList{}
					}
					(*l)[name] = resource.MustParse([]string{"1", "-1", "2Mi", "1u", "0"}[c.Intn(5)])
				}
			}
		},
	).Fill(pod)
	return pod
}

// FuzzPod: whatever a client sends, nothing panics, defaults and preparation leave the old object alone, and defaults settle.
func FuzzPod(f *testing.F) {
	for seed := range int64(20) {
		f.Add(seed, seed+100)
	}
	f.Fuzz(func(t *testing.T, seed, oldSeed int64) {
		kind, ctx := Pods(), context.Background()
		pod, old := randomPod(seed), randomPod(oldSeed)
		kind.Default(pod)
		kind.Default(old)
		again := pod.DeepCopy()
		kind.Default(again)
		if !equality.Semantic.DeepEqual(pod, again) {
			t.Error("a defaulted pod is changed by defaulting it again")
		}
		before := old.DeepCopy()
		created := pod.DeepCopy()
		kind.PrepareForCreate(ctx, created)
		kind.Validate(ctx, created)
		kind.Warnings(ctx, created, nil)
		QOSClass(pod)
		podRow(pod, time.Now())
		podRowConditions(pod)
		podFields(pod)
		podGracePeriod(pod, &metav1.DeleteOptions{})
		template := &corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: *pod.Spec.DeepCopy()}
		DefaultPodTemplate(template)
		PreparePodTemplate(template, &corev1.PodTemplateSpec{Spec: old.Spec})
		ValidatePodTemplate(template, &corev1.PodTemplateSpec{Spec: old.Spec}, field.NewPath("spec", "template"))
		PodTemplateWarnings(template, field.NewPath("spec", "template"))
		updated := pod.DeepCopy()
		kind.PrepareForUpdate(ctx, updated, old)
		kind.ValidateUpdate(ctx, updated, old)
		for _, s := range kind.Subresources {
			changed := pod.DeepCopy()
			s.PrepareForUpdate(ctx, changed, old)
			s.ValidateUpdate(ctx, changed, old)
		}
		if !reflect.DeepEqual(old, before) {
			t.Error("an update changed the stored object")
		}
	})
}

func TestPodDefaultsSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pod := randomPod(rapid.Int64().Draw(t, "seed"))
		defaultPod(pod)
		again := pod.DeepCopy()
		if defaultPod(again); !equality.Semantic.DeepEqual(pod, again) {
			t.Fatal("a defaulted pod is changed by defaulting it again")
		}
	})
}

func TestValidPodsCostNothingToSpellOut(t *testing.T) {
	pod := decodePod(t, podFile(t, "ordinary"))
	defaultPod(pod)
	allocations := testing.AllocsPerRun(100, func() {
		defaultPod(pod)
		if errs := validatePod(context.Background(), pod); len(errs) > 0 {
			t.Fatal(errs)
		}
	})
	if allocations > 12 {
		t.Errorf("defaults and validation of an ordinary pod allocate %v times: a place has escaped to the heap", allocations)
	}
}

func FuzzImageTag(f *testing.F) {
	for _, image := range []string{"", "a", "a:b", "a:5000/b", "a:5000/b:c", "A", "A/b", "localhost/a", "a//b", "a/", "/a", "a@sha256:" + strings.Repeat("0", 64), "a:b@sha256:" + strings.Repeat("0", 64),
		"a@sha256:0", "a@md5:" + strings.Repeat("0", 32), "a:", "a:-b", "a__b", "a___b", "a..b", "a-b--c", "[::1]:5000/a", "[::1]/a", "[]/a", "a.b:x/c", "-a/b", "a_b/c", "index.docker.io/a", strings.Repeat("a", 64), strings.Repeat("a", 248),
		strings.Repeat("a", 247), "docker.io/" + strings.Repeat("a", 250), "a:" + strings.Repeat("b", 128), "a:" + strings.Repeat("b", 129), "ä", "a b", "a\n", "docker.io/library", "sha256:" + strings.Repeat("0", 64), "a.b", "a.b:80", "x.:1/y", "LOCALHOST/a"} {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image string) {
		want := ""
		if named, err := reference.ParseNormalizedNamed(image); err == nil {
			if tagged, ok := named.(reference.Tagged); ok {
				want = tagged.Tag()
			} else if _, digested := named.(reference.Digested); !digested {
				want = "latest"
			}
		}
		if got := imageTag(image); got != want {
			t.Errorf("imageTag(%q) = %q, want %q", image, got, want)
		}
	})
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l["cpu"] = resource.MustParse(cpu)
		}
		if memory != "" {
			l["memory"] = resource.MustParse(memory)
		}
		return l
	}
	both := func(cpu, memory string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpu, memory)}
	}
	none := corev1.ResourceRequirements{}
	for name, c := range map[string]struct {
		pod        *corev1.ResourceRequirements
		init, main []corev1.ResourceRequirements
		want       corev1.PodQOSClass
	}{
		"nothing set":                     {main: []corev1.ResourceRequirements{none}, want: corev1.PodQOSBestEffort},
		"zero is nothing":                 {main: []corev1.ResourceRequirements{both("0", "0")}, want: corev1.PodQOSBestEffort},
		"all equal":                       {main: []corev1.ResourceRequirements{both("1", "1Gi"), both("2", "1Gi")}, want: corev1.PodQOSGuaranteed},
		"one without":                     {main: []corev1.ResourceRequirements{both("1", "1Gi"), none}, want: corev1.PodQOSBurstable},
		"init without":                    {init: []corev1.ResourceRequirements{none}, main: []corev1.ResourceRequirements{both("1", "1Gi")}, want: corev1.PodQOSBurstable},
		"cpu alone":                       {main: []corev1.ResourceRequirements{both("1", "")}, want: corev1.PodQOSBurstable},
		"requests alone":                  {main: []corev1.ResourceRequirements{{Requests: list("1", "1Gi")}}, want: corev1.PodQOSBurstable},
		"less requested":                  {main: []corev1.ResourceRequirements{{Requests: list("1", "1Gi"), Limits: list("2", "1Gi")}}, want: corev1.PodQOSBurstable},
		"other resources do not count":    {main: []corev1.ResourceRequirements{{Limits: corev1.ResourceList{"example.com/x": resource.MustParse("1")}}}, want: corev1.PodQOSBestEffort},
		"the pod's own decide":            {pod: &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}, main: []corev1.ResourceRequirements{none}, want: corev1.PodQOSGuaranteed},
		"the pod's own, less requested":   {pod: &corev1.ResourceRequirements{Requests: list("1", ""), Limits: list("2", "")}, main: []corev1.ResourceRequirements{both("1", "1Gi")}, want: corev1.PodQOSBurstable},
		"the pod's own that mean nothing": {pod: &corev1.ResourceRequirements{}, main: []corev1.ResourceRequirements{both("1", "1Gi")}, want: corev1.PodQOSGuaranteed},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: c.pod}}
		for _, r := range c.init {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Resources: r})
		}
		for _, r := range c.main {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Resources: r})
		}
		if got := QOSClass(pod); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestPodGracePeriod(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		node        string
		phase       corev1.PodPhase
		spec, asked *int64
		want        int64
	}{
		"as the pod says":           {node: "n", spec: seconds(30), want: 30},
		"as asked":                  {node: "n", spec: seconds(30), asked: seconds(5), want: 5},
		"longer than the pod says":  {node: "n", spec: seconds(30), asked: seconds(90), want: 90},
		"now":                       {node: "n", spec: seconds(30), asked: seconds(0), want: 0},
		"negative is one":           {node: "n", asked: seconds(-7), want: 1},
		"negative in the pod":       {node: "n", spec: seconds(-7), want: 1},
		"never scheduled":           {spec: seconds(30), asked: seconds(5), want: 0},
		"failed":                    {node: "n", phase: corev1.PodFailed, spec: seconds(30), want: 0},
		"succeeded":                 {node: "n", phase: corev1.PodSucceeded, spec: seconds(30), want: 0},
		"running":                   {node: "n", phase: corev1.PodRunning, spec: seconds(30), want: 30},
		"nothing said, no defaults": {node: "n", want: 0},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: c.node, TerminationGracePeriodSeconds: c.spec}, Status: corev1.PodStatus{Phase: c.phase}}
		if got := podGracePeriod(pod, &metav1.DeleteOptions{GracePeriodSeconds: c.asked}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestPodFields(t *testing.T) {
	pod := decodePod(t, podFile(t, "host"))
	defaultPod(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.9", PodIPs: []corev1.PodIP{{IP: "10.0.0.9"}}, NominatedNodeName: "other"}
	set := podFields(pod)
	for label, want := range map[string]string{
		"metadata.name": "host", "metadata.namespace": "shop", "spec.nodeName": "node-1", "spec.restartPolicy": "Always", "spec.schedulerName": "default-scheduler",
		"spec.serviceAccountName": "", "spec.hostNetwork": "true", "status.phase": "Running", "status.podIP": "10.0.0.9", "status.nominatedNodeName": "other",
	} {
		if got := set.Get(label); got != want {
			t.Errorf("%s is %q, want %q", label, got, want)
		}
		if !slices.Contains(Pods().FieldLabels, label) {
			t.Errorf("%s is no field label", label)
		}
	}
	if !slices.Contains(Pods().FieldLabels, "status.podIPs") {
		t.Error("status.podIPs is no field label")
	}
}

func TestPodTemplate(t *testing.T) {
	path := field.NewPath("spec", "template")
	template := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"bad key": "v"}, Annotations: map[string]string{"bad key": "v"}},
		Spec: corev1.PodSpec{
			HostNetwork:         true,
			Containers:          []corev1.Container{{Name: "C", Image: " ", Ports: []corev1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 81, HostPort: 82}}, Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1")}}}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "e"}}},
			Volumes:             []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: ptrTo(int32(0o700))}}}},
		},
	}
	DefaultPodTemplate(template)
	PreparePodTemplate(template, nil)
	if p := template.Spec.Containers[0].Ports[0]; p.HostPort != 0 || template.Spec.Containers[0].Resources.Requests != nil || template.Spec.EnableServiceLinks != nil {
		t.Error("a template got defaults that are for pods only")
	}
	if template.Spec.Volumes[0].EmptyDir.Mode != nil {
		t.Error("a template kept a field that is not offered")
	}
	var paths []string
	for _, e := range ValidatePodTemplate(template, nil, path) {
		paths = append(paths, e.Field)
	}
	want := []string{"spec.template.labels", "spec.template.annotations", "spec.template.spec.containers[0].name", "spec.template.spec.containers[0].ports[1].hostPort", "spec.template.spec.ephemeralContainers"}
	if !slices.Equal(paths, want) {
		t.Errorf("errors at %q\nwant %q", paths, want)
	}
	warnings := PodTemplateWarnings(&corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}},
		Spec:       corev1.PodSpec{NodeSelector: map[string]string{"beta.kubernetes.io/os": "linux"}, Containers: []corev1.Container{{Name: "c"}}},
	}, path)
	wantWarnings := []string{
		`spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
		`spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead`,
	}
	if !slices.Equal(warnings, wantWarnings) {
		t.Errorf("warnings %q\nwant %q", warnings, wantWarnings)
	}
}

// warnings gathers what is warned of in a request.
type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, text) }

func TestAppArmorAnnotationBecomesField(t *testing.T) {
	const key = "container.apparmor.security.beta.kubernetes.io/web"
	for annotation, want := range map[string]*corev1.AppArmorProfile{
		"unconfined":      {Type: corev1.AppArmorProfileTypeUnconfined},
		"runtime/default": {Type: corev1.AppArmorProfileTypeRuntimeDefault},
		"localhost/p":     {Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptrTo("p")},
		"localhost/":      nil,
		"else":            nil,
	} {
		pod := decodePod(t, podFile(t, "ordinary"))
		pod.Annotations = map[string]string{key: annotation}
		var heard warnings
		preparePodForCreate(warning.WithWarningRecorder(context.Background(), &heard), pod)
		var got *corev1.AppArmorProfile
		if s := pod.Spec.Containers[0].SecurityContext; s != nil {
			got = s.AppArmorProfile
		}
		if !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s became %v, want %v", annotation, got, want)
		}
		if len(heard.texts) != 1 {
			t.Errorf("%s: warnings %q, want one", annotation, heard.texts)
		}
	}
}

func TestAlphaFieldsStayWhereTheyAre(t *testing.T) {
	mode := int32(0o700)
	pod := func() *corev1.Pod {
		p := decodePod(t, podFile(t, "ordinary"))
		p.Spec.Volumes = []corev1.Volume{{Name: "e", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: &mode}}}}
		return p
	}
	created, updated := pod(), pod()
	dropAlphaFields(created, nil)
	dropAlphaFields(updated, pod())
	if created.Spec.Volumes[0].EmptyDir.Mode != nil {
		t.Error("a new pod kept a field that is not offered")
	}
	if updated.Spec.Volumes[0].EmptyDir.Mode == nil {
		t.Error("an update lost a field that the stored pod has")
	}
}

// Requests are bounded in size; what comes back must be too.
func TestHostilePods(t *testing.T) {
	const n = 20000
	name := func(i int) string { return "n" + strings.Repeat("0", i%3) + string(rune('a'+i%26)) + fmt.Sprint(i) }
	for what, build := range map[string]func(*corev1.PodSpec, int){
		"containers without image": func(s *corev1.PodSpec, i int) { s.Containers = append(s.Containers, corev1.Container{Name: name(i)}) },
		"mounts of volumes": func(s *corev1.PodSpec, i int) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: name(i)})
			s.Containers[0].VolumeMounts = append(s.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name(n - i), MountPath: name(i)})
		},
		"claims that are not there": func(s *corev1.PodSpec, i int) {
			s.ResourceClaims = append(s.ResourceClaims, corev1.PodResourceClaim{Name: name(i)})
			s.Containers[0].Resources.Claims = append(s.Containers[0].Resources.Claims, corev1.ResourceClaim{Name: "x" + name(i)})
		},
		"variables from files": func(s *corev1.PodSpec, i int) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: name(i)})
			s.Containers[0].Env = append(s.Containers[0].Env, corev1.EnvVar{Name: name(i), ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: name(n - i), Path: "p", Key: "k"}}})
		},
		"spread constraints": func(s *corev1.PodSpec, i int) {
			s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, corev1.TopologySpreadConstraint{TopologyKey: name(i), MaxSkew: 1})
		},
		"ports": func(s *corev1.PodSpec, i int) {
			s.Containers[0].Ports = append(s.Containers[0].Ports, corev1.ContainerPort{ContainerPort: 1, HostPort: int32(i)})
		},
		"files in a volume": func(s *corev1.PodSpec, i int) {
			if i == 0 {
				s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
			}
			s.Volumes[0].Secret.Items = append(s.Volumes[0].Secret.Items, corev1.KeyToPath{Key: "k", Path: name(i)})
		},
	} {
		pod := decodePod(t, podFile(t, "ordinary"))
		for i := range n {
			build(&pod.Spec, i)
		}
		defaultPod(pod)
		errs := validatePod(context.Background(), pod)
		podWarnings(context.Background(), pod, nil)
		if len(errs) > mostFaults {
			t.Errorf("%s: %d errors", what, len(errs))
		}
		size := 0
		for _, e := range errs {
			size += len(e.Error())
		}
		if size > 10<<20 {
			t.Errorf("%s: an answer of %d bytes", what, size)
		}
	}
}
