package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"wherry.dev/wherry/client"
)

// fixture is a manager on a fake API.
type fixture struct {
	*Manager
	api    *fake.Clientset
	root   string
	woken  chan types.UID
	failed chan error
	tokens atomic.Int64 // issued
}

func newFixture(t testing.TB, objects ...runtime.Object) *fixture {
	t.Helper()
	f := &fixture{api: fake.NewClientset(objects...), root: tempDir(t), woken: make(chan types.UID, 16), failed: make(chan error, 16)}
	f.api.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "token" {
			return false, nil, nil
		}
		r := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		n := f.tokens.Add(1)
		r.Status.Token = fmt.Sprintf("token-%d-for-%s", n, strings.Join(r.Spec.Audiences, ","))
		r.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))
		return true, r, nil
	})
	m, err := New(Config{Root: f.root, Client: &client.Set{Kubernetes: f.api},
		Allocatable: func() corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("3")}
		},
		Wake:   func(u types.UID) { f.woken <- u },
		Failed: func(_ *corev1.Pod, err error) { f.failed <- err }})
	must(t, err)
	f.Manager = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-1", Labels: map[string]string{"app": "web", "b": "quo\"te"}},
		Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n", Volumes: volumes, Containers: []corev1.Container{{Name: "c",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}}}}}
	for _, v := range volumes {
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	return p
}

func object[T any](name string, data map[string]string) T {
	var o any
	meta := metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), ResourceVersion: "1"}
	switch any(*new(T)).(type) {
	case *corev1.ConfigMap:
		o = &corev1.ConfigMap{ObjectMeta: meta, Data: data}
	case *corev1.Secret:
		s := &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{}}
		for k, v := range data {
			s.Data[k] = []byte(v)
		}
		o = s
	}
	return o.(T)
}

func read(t testing.TB, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func ptr[T any](v T) *T { return &v }

func projection() corev1.Volume {
	return corev1.Volume{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3607)), Audience: "aud"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: []corev1.KeyToPath{{Key: "k", Path: "dir/k", Mode: ptr(int32(0o600))}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: ptr(true)}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "requests.cpu", Divisor: resource.MustParse("1m")}},
			{Path: "limit", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu"}},
		}}},
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: ptr("bundle"), Path: "ca.pem", Optional: ptr(true)}},
	}}}}
}

// TestLife makes one volume of every kind, keeps them current, and takes them away.
func TestLife(t *testing.T) {
	needsMounts(t)
	f := newFixture(t, object[*corev1.ConfigMap]("cm", map[string]string{"k": "v1", "other": "o"}), object[*corev1.Secret]("s", map[string]string{"password": "hush"}),
		&certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "bundle"}})
	ctx := t.Context()
	host := filepath.Join(f.root, "host")
	pod := podWith(projection(),
		corev1.Volume{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
		corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr(int32(0o400))}}},
		corev1.Volume{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "app", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}}}}},
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: ptr(corev1.HostPathDirectoryOrCreate)}}},
		corev1.Volume{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example/data:1"}}},
	)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(2000))}
	made, err := f.Mount(ctx, pod)
	must(t, err)
	volumes := filepath.Join(f.root, "pods/uid-1/volumes")
	if got, want := made["cm"].Path, filepath.Join(volumes, "kubernetes.io~configmap/cm"); got != want {
		t.Errorf("configMap at %s, want %s", got, want)
	}
	all := filepath.Join(volumes, "kubernetes.io~projected/all")
	for name, want := range map[string]string{"token": "token-1-for-aud", "dir/k": "v1", "password": "hush", "labels": "app=\"web\"\nb=\"quo\\\"te\"", "cpu": "250", "limit": "3", "ca.pem": ""} {
		if got := read(t, all, name); got != want {
			t.Errorf("projected %s: %q, want %q", name, got, want)
		}
	}
	if got := read(t, volumes, "kubernetes.io~downward-api/down/app"); got != "web" {
		t.Errorf("downward API: %q", got)
	}
	for dir, want := range map[string]bool{all: true, filepath.Join(volumes, "kubernetes.io~secret/s"): true, filepath.Join(volumes, "kubernetes.io~configmap/cm"): false,
		filepath.Join(volumes, "kubernetes.io~empty-dir/memory"): true, filepath.Join(volumes, "kubernetes.io~empty-dir/disk"): false} {
		if on, err := isMountPoint(dir); err != nil || on != want {
			t.Errorf("%s in memory: %v (%v), want %v", dir, on, err, want)
		}
	}
	var fsInfo unix.Statfs_t
	must(t, unix.Statfs(filepath.Join(volumes, "kubernetes.io~empty-dir/memory"), &fsInfo))
	if size := int64(fsInfo.Blocks) * fsInfo.Bsize; size != 1<<20 {
		t.Errorf("memory volume has %d bytes", size)
	}
	var st unix.Stat_t
	for name, want := range map[string]uint32{all + "/token": 0o640, filepath.Join(volumes, "kubernetes.io~secret/s/password"): 0o440, filepath.Join(volumes, "kubernetes.io~empty-dir/disk"): 0o2777} {
		must(t, unix.Stat(name, &st))
		if st.Gid != 2000 || st.Mode&0o7777 != want {
			t.Errorf("%s: group %d mode %o, want %o", name, st.Gid, st.Mode&0o7777, want)
		}
	}

	mounts, err := f.ContainerMounts(ctx, ContainerRequest{Pod: pod, Name: "c", VolumeMounts: pod.Spec.Containers[0].VolumeMounts})
	must(t, err)
	for _, m := range mounts {
		readOnly := m.Name != "disk" && m.Name != "memory" && m.Name != "host"
		if m.ReadOnly != readOnly || m.Propagation != corev1.MountPropagationNone || (m.HostPath == "") != (m.Name == "image") {
			t.Errorf("mount %+v", m)
		}
	}
	sub, err := f.ContainerMounts(ctx, ContainerRequest{Pod: pod, Name: "c", Env: func(n string) (string, bool) { return "kay", n == "K" }, VolumeMounts: []corev1.VolumeMount{
		{Name: "cm", MountPath: "/k", SubPath: "k"}, {Name: "disk", MountPath: "/d", SubPathExpr: "x/$(K)/$$y"}, {Name: "image", MountPath: "/i", SubPath: "part"}}})
	must(t, err)
	if got := read(t, sub[0].HostPath); got != "v1" {
		t.Errorf("subPath of a file: %q", got)
	}
	if _, err := os.Stat(filepath.Join(volumes, "kubernetes.io~empty-dir/disk/x/kay/$y")); err != nil {
		t.Errorf("subPathExpr: %v", err)
	}
	if sub[2].ImageSubPath != "part" || sub[2].HostPath != "" {
		t.Errorf("image subPath: %+v", sub[2])
	}

	// What they show changes with what it comes from; what containers wrote stays.
	must(t, os.WriteFile(filepath.Join(made["disk"].Path, "written"), []byte("mine"), 0o644))
	cm := object[*corev1.ConfigMap]("cm", map[string]string{"k": "v2"})
	cm.ResourceVersion = "2"
	_, err = f.api.CoreV1().ConfigMaps("ns").Update(ctx, cm, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "the ConfigMap's change shows in both volumes", func() bool {
		_, gone := os.Stat(filepath.Join(made["cm"].Path, "other"))
		return read(t, all, "dir/k") == "v2" && read(t, made["cm"].Path, "k") == "v2" && errors.Is(gone, fs.ErrNotExist)
	})
	relabeled := pod.DeepCopy()
	relabeled.Labels["app"] = "api"
	f.Update(relabeled)
	eventually(t, "the label's change shows", func() bool { return read(t, made["down"].Path, "app") == "api" })
	if f.tokens.Load() != 1 {
		t.Errorf("%d tokens issued", f.tokens.Load())
	}
	must(t, f.api.CoreV1().Secrets("ns").Delete(ctx, "s", metav1.DeleteOptions{}))
	select {
	case err := <-f.failed:
		if list := Failures(err); len(list) != 2 || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "s" : secret "s" not found`) {
			t.Errorf("a Secret that goes: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("nobody was told that the Secret is gone")
	}
	if got := read(t, made["s"].Path, "password"); got != "hush" {
		t.Errorf("content of a deleted Secret: %q", got)
	}

	// A restarted kubelet takes the volumes over; then they go, with all they left.
	second, err := New(Config{Root: f.root, Client: f.c.Client})
	must(t, err)
	defer second.objects.Close()
	if orphans, err := second.Orphans(func(types.UID) bool { return false }); err != nil || len(orphans) != 1 || orphans[0] != "uid-1" {
		t.Errorf("orphans: %v %v", orphans, err)
	}
	must(t, second.Unmount(ctx, "uid-1")) // subPath mounts included, by their traces alone
	if _, err := os.Lstat(filepath.Join(f.root, "pods/uid-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pod's directory is left: %v", err)
	}
	must(t, f.Unmount(ctx, "uid-1"))
	must(t, f.Unmount(ctx, "uid-1"))
	if n := f.objects.Len(); n != 0 {
		t.Errorf("%d objects still watched", n)
	}
	if left, err := mountsBelow(f.root); err != nil || len(left) != 0 {
		t.Errorf("mounts left: %v %v", left, err)
	}
	if _, err := os.Stat(host); err != nil {
		t.Errorf("the host's own directory: %v", err)
	}
}

// TestAppears: a pod whose ConfigMap is missing fails with upstream's words and is woken the moment it appears.
func TestAppears(t *testing.T) {
	f := newFixture(t)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "late"}, Items: []corev1.KeyToPath{{Key: "k", Path: "p"}}}}})
	expect := func(want string) {
		t.Helper()
		_, err := f.Mount(t.Context(), pod)
		list := Failures(err)
		if len(list) != 1 || list[0].Error() != `MountVolume.SetUp failed for volume "v" : `+want {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	expect(`configmap "late" not found`)
	// The watch must stand before the object comes, as it would on a real server, which keeps history.
	eventually(t, "watch of the missing object", func() bool {
		for _, a := range f.api.Actions() {
			if a.GetVerb() == "watch" {
				return true
			}
		}
		return false
	})
	late := object[*corev1.ConfigMap]("late", map[string]string{"x": "y"})
	_, err := f.api.CoreV1().ConfigMaps("ns").Create(t.Context(), late, metav1.CreateOptions{})
	must(t, err)
	woken := func() {
		t.Helper()
		select {
		case u := <-f.woken:
			if u != pod.UID {
				t.Errorf("woke %s", u)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("not woken")
		}
	}
	woken()
	expect(`configmap references non-existent config key: k`)
	late.Data["k"], late.ResourceVersion = "v", "2"
	_, err = f.api.CoreV1().ConfigMaps("ns").Update(t.Context(), late, metav1.UpdateOptions{})
	must(t, err)
	woken()
	made, err := f.Mount(t.Context(), pod)
	must(t, err)
	if got := read(t, made["v"].Path, "p"); got != "v" {
		t.Errorf("%q", got)
	}
	must(t, f.Unmount(t.Context(), pod.UID))
}

// TestImmutable: an object that cannot change is not watched.
func TestImmutable(t *testing.T) {
	cm := object[*corev1.ConfigMap]("cm", map[string]string{"k": "v"})
	cm.Immutable = ptr(true)
	f := newFixture(t, cm)
	for _, uid := range []types.UID{"a", "b"} {
		if _, err := f.Objects().ConfigMap(t.Context(), uid, "ns", "cm"); err != nil {
			t.Fatal(err)
		}
	}
	f.Objects().Close()
	for _, a := range f.api.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("%s", a.GetVerb())
		}
	}
	if len(f.api.Actions()) != 1 {
		t.Errorf("read %d times", len(f.api.Actions()))
	}
}

func TestTokens(t *testing.T) {
	f := newFixture(t)
	pod := podWith()
	k := tokenKey{"sa", "aud", 600}
	first, err := f.plugins[0].(*projected).tokens.get(t.Context(), pod, "aud", 600)
	must(t, err)
	left := time.Until(first.until)
	if left > 480*time.Second || left < 460*time.Second {
		t.Errorf("to be renewed in %s, want 80%% of 600 s less up to 10 s", left)
	}
	tokens := f.plugins[0].(*projected).tokens
	if again, _ := tokens.get(t.Context(), pod, "aud", 600); again != first {
		t.Error("asked again though not due")
	}
	due := first
	due.until = time.Now().Add(-time.Second)
	tokens.held[pod.UID][k] = due
	if next, err := tokens.get(t.Context(), pod, "aud", 600); err != nil || next.text == first.text {
		t.Errorf("not renewed: %v", err)
	}
	// The server fails: the old one is used while it is good, and not longer.
	f.api.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("down") })
	tokens.held[pod.UID][k] = due
	if old, err := tokens.get(t.Context(), pod, "aud", 600); err != nil || old.text != due.text || !old.until.After(time.Now()) {
		t.Errorf("good token not kept: %+v %v", old, err)
	}
	due.end = time.Now().Add(-time.Second)
	tokens.held[pod.UID][k] = due
	if _, err := tokens.get(t.Context(), pod, "aud", 600); err == nil || !strings.Contains(err.Error(), "failed to fetch token") {
		t.Errorf("expired token used: %v", err)
	}
	long, err := f.api.CoreV1().ServiceAccounts("ns").CreateToken(t.Context(), "sa", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err == nil {
		t.Errorf("reactor let %v through", long)
	}
}

func TestTokenOwner(t *testing.T) {
	user := func(u *int64) corev1.Container {
		return corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: u}}
	}
	for name, c := range map[string]struct {
		spec corev1.PodSpec
		want *int64
	}{
		"none":   {corev1.PodSpec{Containers: []corev1.Container{{}}}, nil},
		"pod":    {corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: ptr(int64(7))}, Containers: []corev1.Container{{}}}, ptr(int64(7))},
		"same":   {corev1.PodSpec{Containers: []corev1.Container{user(ptr(int64(7))), user(ptr(int64(7)))}}, ptr(int64(7))},
		"differ": {corev1.PodSpec{Containers: []corev1.Container{user(ptr(int64(7))), user(ptr(int64(8)))}}, nil},
		"some":   {corev1.PodSpec{InitContainers: []corev1.Container{{}}, Containers: []corev1.Container{user(ptr(int64(7)))}}, nil},
	} {
		got := onlyUser(&corev1.Pod{Spec: c.spec})
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o644))
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		want string // part of the error; empty for none
	}{
		{dir, corev1.HostPathUnset, ""}, {dir + "/x", corev1.HostPathUnset, ""},
		{dir, corev1.HostPathDirectory, ""}, {file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{dir + "/absent", corev1.HostPathDirectory, "is not a directory"},
		{dir + "/made/deep", corev1.HostPathDirectoryOrCreate, ""}, {file, corev1.HostPathDirectoryOrCreate, "is not a directory"},
		{file, corev1.HostPathFile, ""}, {dir, corev1.HostPathFile, "is not a file"}, {dir + "/new", corev1.HostPathFileOrCreate, ""},
		{dir + "/no/parent", corev1.HostPathFileOrCreate, "hostPath type check failed"},
		{file, corev1.HostPathSocket, "is not a socket file"}, {"/dev/null", corev1.HostPathCharDev, ""}, {"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{file, "Strange", "invalid volume type"},
	} {
		err := checkHostPath(c.path, c.kind)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.want)
		}
	}
}

func TestExpand(t *testing.T) {
	env := func(n string) (string, bool) { return "v", n == "A" }
	for in, want := range map[string]string{"$(A)": "v", "a/$(A)/b": "a/v/b", "$$(A)": "$(A)", "$A": "$A", "$": "$", "$(A": "$(A", "x$$": "x$"} {
		if got, err := expand(in, env); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
	if _, err := expand("$(B)", env); err == nil || err.Error() != `missing value for "B"` {
		t.Errorf("absent variable: %v", err)
	}
}

func TestMountRefusals(t *testing.T) {
	f := newFixture(t)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}})
	if _, err := f.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "no volume plugin matched") {
		t.Errorf("unknown kind: %v", err)
	}
	if _, err := f.ContainerMounts(t.Context(), ContainerRequest{Pod: pod, Name: "c", VolumeMounts: pod.Spec.Containers[0].VolumeMounts}); err == nil {
		t.Error("mounted what is not made")
	}
	for _, uid := range []types.UID{"", ".", "..", "../x", "a/b"} {
		if err := f.Unmount(t.Context(), uid); err == nil {
			t.Errorf("Unmount(%q) did something", uid)
		}
	}
}

// BenchmarkMount is the usual pod: one projected token volume.
func BenchmarkMount(b *testing.B) {
	needsMounts(b)
	f := newFixture(b, object[*corev1.ConfigMap]("cm", map[string]string{"k": "v1"}), object[*corev1.Secret]("s", map[string]string{"password": "hush"}))
	pod := podWith(projection())
	pod.Spec.Volumes[0].Projected.Sources = pod.Spec.Volumes[0].Projected.Sources[:2]
	f.Objects().ConfigMap(b.Context(), "keeps-it", "ns", "cm")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Mount(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
		if err := f.Unmount(b.Context(), pod.UID); err != nil {
			b.Fatal(err)
		}
	}
}
