package authz

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"pgregory.net/rapid"
)

func podOn(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: "sa-" + name}}
	if change != nil {
		change(p)
	}
	return p
}

func TestNodeDecisions(t *testing.T) {
	g := newGraph()
	g.setPod(podOn("n1", "web", func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
		p.Spec.Containers = []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}},
			EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "from"}}}}}}
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}},
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		}
	}))
	g.setPod(podOn("n2", "other", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "others"}}}}
	}))
	g.setPod(podOn("n1", "mirror", func(p *corev1.Pod) {
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "coveted"}}}}
	}))
	g.setPod(podOn("", "pending", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "waiting"}}}}
	}))
	g.setVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{NodePublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "csi"}}}}})
	g.setAttachment(&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}})

	for text, want := range map[string]bool{
		"get secrets:pull ns": true, "get secrets:env ns": true, "get secrets:projected ns": true, "watch secrets:env ns": true, "list secrets:env ns": true,
		"get secrets:others ns": false, "get secrets:coveted ns": false, "get secrets:waiting ns": false, "get secrets:env other": false, "list secrets ns": false, "update secrets:env ns": false,
		"get secrets:csi storage": true, "get configmaps:from ns": true, "get configmaps:kube-root-ca.crt ns": true, "get configmaps:x ns": false,
		"get persistentvolumeclaims:data ns": true, "get persistentvolumeclaims:web-scratch ns": true, "list persistentvolumeclaims ns": false, "patch persistentvolumeclaims/status:data ns": true, "get persistentvolumes:pv": true, "get persistentvolumes:other": false,
		"create serviceaccounts/token:sa-web ns": true, "create serviceaccounts/token:sa-other ns": false, "get serviceaccounts:sa-web ns": true, "create serviceaccounts ns": false,
		"get storage.k8s.io|volumeattachments:va": true, "get storage.k8s.io|volumeattachments:vb": false,
		"get pods:web ns": true, "get pods:other ns": false, "list pods": false, "create pods ns": true, "delete pods:other ns": true, "patch pods/status:web ns": true, "patch pods:web ns": false, "create pods/eviction:web ns": true, "get pods/log:web ns": false,
		"get nodes:n1": true, "get nodes:n2": false, "list nodes": false, "create nodes": true, "patch nodes/status:n1": true, "delete nodes:n1": false,
		"get coordination.k8s.io|leases:n1 kube-node-lease": true, "update coordination.k8s.io|leases:n2 kube-node-lease": false, "create coordination.k8s.io|leases kube-node-lease": true, "list coordination.k8s.io|leases kube-node-lease": false,
		"update coordination.k8s.io|leases:n1 kube-system": false, "patch coordination.k8s.io|leases:endpoints-n1 wherry-system": true, "patch coordination.k8s.io|leases:endpoints-n2 wherry-system": false,
		"update storage.k8s.io|csinodes:n1": true, "update storage.k8s.io|csinodes:n2": false,
		"create authentication.k8s.io|tokenreviews": true, "create authorization.k8s.io|subjectaccessreviews": true, "create certificates.k8s.io|certificatesigningrequests": true, "update certificates.k8s.io|certificatesigningrequests/approval:c": false,
		"create certificates.k8s.io|podcertificaterequests ns": true, "list certificates.k8s.io|podcertificaterequests ns": false, "update certificates.k8s.io|podcertificaterequests/status:r ns": false,
		"list services": true, "create events ns": true, "get node.k8s.io|runtimeclasses:r": true, "list rbac.authorization.k8s.io|clusterroles": false, "create namespaces": false, "get /metrics": false,
	} {
		d, reason := g.authorize("n1", asks(t, "system:node:n1,system:nodes "+text))
		if (d == authorizer.DecisionAllow) != want {
			t.Errorf("%s: %v %q, want %v", text, d, reason, want)
		}
	}
	for selector, want := range map[string]bool{"spec.nodeName=n1": true, "spec.nodeName=n2": false, "spec.nodeName!=n1": false, "metadata.name=web": false, "spec.nodeName=n1,status.phase=Running": true} {
		for _, what := range []string{"list pods", "watch pods", "list certificates.k8s.io|podcertificaterequests ns", "watch certificates.k8s.io|podcertificaterequests ns"} {
			a := asks(t, "system:node:n1,system:nodes "+what)
			parsed, err := fields.ParseSelector(selector)
			if err != nil {
				t.Fatal(err)
			}
			a.FieldSelectorRequirements = parsed.Requirements()
			if d, reason := g.authorize("n1", a); (d == authorizer.DecisionAllow) != want {
				t.Errorf("%s with %s: %v %q", what, selector, d, reason)
			}
		}
	}
	// Words that kubectl and kubelet logs show.
	for text, want := range map[string]string{
		"get secrets:others ns":     "no relationship found between node 'n1' and this object",
		"list secrets ns":           "No Object name found",
		"list pods":                 "can only list/watch pods with spec.nodeName field selector",
		"create serviceaccounts ns": "can only create tokens for individual service accounts",
		"update coordination.k8s.io|leases:n1 kube-system": `can only access leases in the "kube-node-lease" system namespace`,
	} {
		if _, reason := g.authorize("n1", asks(t, "system:node:n1,system:nodes "+text)); reason != want {
			t.Errorf("%s: %q, want %q", text, reason, want)
		}
	}
	g.dropPod(podOn("n1", "web", nil))
	if d, _ := g.authorize("n1", asks(t, "system:node:n1,system:nodes get secrets:pull ns")); d == authorizer.DecisionAllow {
		t.Error("the secret of a pod that is gone")
	}
	for _, name := range []string{"system:node:n1", "system:node:n1,others", "n1,system:nodes"} { // the group and the name, both
		if _, ok := NodeName(asks(t, name+" get pods").User); ok {
			t.Errorf("%s passes for a node", name)
		}
	}
}

// After any history of pods coming, changing, moving and going, exactly what the present pods refer to is reachable, and
// when all are gone nothing is kept.
func TestGraphHoldsWhatPodsReferTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, present := newGraph(), map[string]*corev1.Pod{}
		for i := range rapid.IntRange(0, 30).Draw(t, "steps") {
			name := fmt.Sprint("p", rapid.IntRange(0, 4).Draw(t, "pod"))
			if old := present[name]; old != nil && rapid.Bool().Draw(t, "go") {
				g.dropPod(old)
				delete(present, name)
				continue
			}
			p := podOn(rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node"), name, func(p *corev1.Pod) {
				p.UID = types.UID(fmt.Sprint(i)) // the delete may have been missed
				p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: fmt.Sprint("s", rapid.IntRange(0, 3).Draw(t, "secret"))}}
			})
			g.setPod(p)
			present[name] = p
		}
		for _, node := range []string{"n1", "n2"} {
			for s := range 4 {
				want := false
				for _, p := range present {
					want = want || p.Spec.NodeName == node && p.Spec.ImagePullSecrets[0].Name == fmt.Sprint("s", s)
				}
				if got := g.reaches(node, object{secretObject, "ns", fmt.Sprint("s", s)}); got != want {
					t.Fatalf("node %s secret %d: %v, want %v", node, s, got, want)
				}
			}
		}
		for _, p := range present {
			g.dropPod(p)
		}
		if len(g.nodes) != 0 || len(g.pods) != 0 {
			t.Fatalf("left: %v %v", g.nodes, g.pods)
		}
	})
}
