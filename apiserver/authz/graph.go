package authz

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

type objectKind uint8

const (
	podObject objectKind = iota
	secretObject
	configMapObject
	accountObject
	claimObject
	volumeObject
	attachmentObject
	resourceClaimObject
)

// object names what a node may ask for; namespace is empty for what is cluster-wide.
type object struct {
	kind            objectKind
	namespace, name string
}

// graph knows which objects the pods bound to each node refer to. It is kept as one counted set per node, so a
// decision is one or two map look-ups, whatever the size of the cluster. Safe for concurrent use.
type graph struct {
	rules []rbacv1.PolicyRule

	mu sync.RWMutex // guards all below
	// nodes counts, for each node, by how many pods (or attachments) an object is referred to.
	nodes map[string]map[object]int
	// pods remembers what each bound pod contributed, by namespace/name.
	pods map[object]contribution
	// attachments remembers the same of VolumeAttachments.
	attachments map[string]contribution
	// volumes are PersistentVolumes that are bound: the claim, and the secrets that its driver needs.
	volumes map[string]volume
	// volumesOf lists the volumes that refer to a secret.
	volumesOf map[object][]string
	// grown is closed, and replaced, when something was added.
	grown chan struct{}
}

// contribution is what one pod or attachment adds to its node's set.
type contribution struct {
	node    string
	uid     types.UID
	later   int // how many references came after binding
	objects []object
}

type volume struct {
	claim   object
	secrets []object
}

func newGraph() *graph {
	return &graph{
		rules:       nodeRules(),
		nodes:       map[string]map[object]int{},
		pods:        map[object]contribution{},
		attachments: map[string]contribution{},
		volumes:     map[string]volume{},
		volumesOf:   map[object][]string{},
		grown:       make(chan struct{}),
	}
}

// follow registers with the informers and returns what to wait for. Storage kinds are followed when they are served.
func (g *graph) follow(set *client.Set, served func(schema.GroupVersionResource) bool) ([]cache.DoneChecker, error) {
	type source struct {
		informer cache.SharedIndexInformer
		changed  func(any)
		deleted  func(any)
	}
	sources := []source{{set.Informers.Core().V1().Pods().Informer(),
		func(o any) { g.setPod(o.(*corev1.Pod)) }, func(o any) { g.dropPod(o.(*corev1.Pod)) }}}
	if served != nil && served(corev1.SchemeGroupVersion.WithResource("persistentvolumes")) {
		sources = append(sources, source{set.Informers.Core().V1().PersistentVolumes().Informer(),
			func(o any) { g.setVolume(o.(*corev1.PersistentVolume)) }, func(o any) { g.dropVolume(o.(*corev1.PersistentVolume).Name) }})
	}
	if served != nil && served(storagev1.SchemeGroupVersion.WithResource("volumeattachments")) {
		sources = append(sources, source{set.Informers.Storage().V1().VolumeAttachments().Informer(),
			func(o any) { g.setAttachment(o.(*storagev1.VolumeAttachment)) }, func(o any) { g.dropAttachment(o.(*storagev1.VolumeAttachment).Name) }})
	}
	var synced []cache.DoneChecker
	for _, s := range sources {
		registration, err := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    s.changed,
			UpdateFunc: func(_, o any) { s.changed(o) },
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				s.deleted(o)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("follow pods: %w", err)
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	return synced, nil
}

// next returns a channel that is closed when something is added.
func (g *graph) next() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.grown
}

// reaches says whether something on the node refers to the object.
func (g *graph) reaches(node string, o object) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	objects := g.nodes[node]
	if objects[o] > 0 {
		return true
	}
	switch o.kind {
	case volumeObject: // through its claim
		v, ok := g.volumes[o.name]
		return ok && objects[v.claim] > 0
	case secretObject: // through a volume's driver
		for _, name := range g.volumesOf[o] {
			if objects[g.volumes[name].claim] > 0 {
				return true
			}
		}
	}
	return false
}

func (g *graph) setPod(p *corev1.Pod) {
	key := object{podObject, p.Namespace, p.Name}
	g.mu.Lock()
	defer g.mu.Unlock()
	old, known := g.pods[key]
	if p.Spec.NodeName == "" {
		if known {
			g.take(old)
			delete(g.pods, key)
		}
		return
	}
	// What a pod refers to does not change once it is bound, but for ephemeral containers and its claims' names;
	// status updates are by far the most events, so look before computing.
	fresh := contribution{node: p.Spec.NodeName, uid: p.UID, later: len(p.Spec.EphemeralContainers) + len(p.Status.ResourceClaimStatuses)}
	if known && old.node == fresh.node && old.uid == fresh.uid && old.later == fresh.later {
		return
	}
	fresh.objects = podObjects(p)
	g.give(fresh)
	if known {
		g.take(old)
	}
	g.pods[key] = fresh
}

func (g *graph) dropPod(p *corev1.Pod) {
	key := object{podObject, p.Namespace, p.Name}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(g.pods[key])
	delete(g.pods, key)
}

// give and take change a node's counts; callers hold mu.
func (g *graph) give(c contribution) {
	close(g.grown)
	g.grown = make(chan struct{})
	objects := g.nodes[c.node]
	if objects == nil {
		objects = map[object]int{}
		g.nodes[c.node] = objects
	}
	for _, o := range c.objects {
		objects[o]++
	}
}

func (g *graph) take(c contribution) {
	objects := g.nodes[c.node]
	for _, o := range c.objects {
		if objects[o]--; objects[o] <= 0 {
			delete(objects, o)
		}
	}
	if len(objects) == 0 {
		delete(g.nodes, c.node)
	}
}

// podObjects returns the pod itself and all that it refers to, sorted, without duplicates. Mirror pods refer to nothing:
// else a node could read any secret by making one.
func podObjects(p *corev1.Pod) []object {
	objects := []object{{podObject, p.Namespace, p.Name}}
	add := func(kind objectKind, name string) {
		if name != "" {
			objects = append(objects, object{kind, p.Namespace, name})
		}
	}
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return objects
	}
	add(accountObject, p.Spec.ServiceAccountName)
	for i := range p.Spec.ImagePullSecrets {
		add(secretObject, p.Spec.ImagePullSecrets[i].Name)
	}
	env := func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			if source := env[i].ValueFrom; source != nil {
				if source.SecretKeyRef != nil {
					add(secretObject, source.SecretKeyRef.Name)
				}
				if source.ConfigMapKeyRef != nil {
					add(configMapObject, source.ConfigMapKeyRef.Name)
				}
			}
		}
		for i := range from {
			if from[i].SecretRef != nil {
				add(secretObject, from[i].SecretRef.Name)
			}
			if from[i].ConfigMapRef != nil {
				add(configMapObject, from[i].ConfigMapRef.Name)
			}
		}
	}
	for i := range p.Spec.InitContainers {
		env(p.Spec.InitContainers[i].Env, p.Spec.InitContainers[i].EnvFrom)
	}
	for i := range p.Spec.Containers {
		env(p.Spec.Containers[i].Env, p.Spec.Containers[i].EnvFrom)
	}
	for i := range p.Spec.EphemeralContainers {
		env(p.Spec.EphemeralContainers[i].Env, p.Spec.EphemeralContainers[i].EnvFrom)
	}
	for i := range p.Spec.Volumes {
		volumeObjects(p, &p.Spec.Volumes[i], add)
	}
	for i := range p.Status.ResourceClaimStatuses {
		if name := p.Status.ResourceClaimStatuses[i].ResourceClaimName; name != nil {
			add(resourceClaimObject, *name)
		}
	}
	for i := range p.Spec.ResourceClaims {
		if name := p.Spec.ResourceClaims[i].ResourceClaimName; name != nil {
			add(resourceClaimObject, *name)
		}
	}
	slices.SortFunc(objects, compareObjects)
	return slices.Compact(objects)
}

func compareObjects(a, b object) int {
	switch {
	case a.kind != b.kind:
		return int(a.kind) - int(b.kind)
	case a.name != b.name:
		if a.name < b.name {
			return -1
		}
		return 1
	}
	return 0 // one pod, one namespace
}

func volumeObjects(p *corev1.Pod, v *corev1.Volume, add func(objectKind, string)) {
	secret := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add(secretObject, ref.Name)
		}
	}
	switch {
	case v.Secret != nil:
		add(secretObject, v.Secret.SecretName)
	case v.ConfigMap != nil:
		add(configMapObject, v.ConfigMap.Name)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil {
				add(secretObject, s.Name)
			}
			if c := v.Projected.Sources[i].ConfigMap; c != nil {
				add(configMapObject, c.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		add(claimObject, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		add(claimObject, p.Name+"-"+v.Name) // KEP-1698: the claim's name is the pod's and the volume's
	case v.CSI != nil:
		secret(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		add(secretObject, v.AzureFile.SecretName)
	case v.CephFS != nil:
		secret(v.CephFS.SecretRef)
	case v.Cinder != nil:
		secret(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		secret(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		secret(v.ISCSI.SecretRef)
	case v.RBD != nil:
		secret(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		secret(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		secret(v.StorageOS.SecretRef)
	}
}

func (g *graph) setVolume(pv *corev1.PersistentVolume) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropVolumeLocked(pv.Name)
	if pv.Spec.ClaimRef == nil {
		return
	}
	v := volume{claim: object{claimObject, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name}}
	add := func(ref *corev1.SecretReference) {
		if ref != nil && ref.Name != "" {
			namespace := ref.Namespace
			if namespace == "" {
				namespace = v.claim.namespace
			}
			v.secrets = append(v.secrets, object{secretObject, namespace, ref.Name})
		}
	}
	source := &pv.Spec.PersistentVolumeSource
	switch {
	case source.CSI != nil:
		add(source.CSI.NodePublishSecretRef)
		add(source.CSI.NodeStageSecretRef)
		add(source.CSI.NodeExpandSecretRef)
	case source.AzureFile != nil:
		namespace := ""
		if source.AzureFile.SecretNamespace != nil {
			namespace = *source.AzureFile.SecretNamespace
		}
		add(&corev1.SecretReference{Namespace: namespace, Name: source.AzureFile.SecretName})
	case source.CephFS != nil:
		add(source.CephFS.SecretRef)
	case source.Cinder != nil:
		add(source.Cinder.SecretRef)
	case source.FlexVolume != nil:
		add(source.FlexVolume.SecretRef)
	case source.ISCSI != nil:
		add(source.ISCSI.SecretRef)
	case source.RBD != nil:
		add(source.RBD.SecretRef)
	case source.ScaleIO != nil:
		add(source.ScaleIO.SecretRef)
	}
	g.volumes[pv.Name] = v
	for _, s := range v.secrets {
		g.volumesOf[s] = append(g.volumesOf[s], pv.Name)
	}
}

func (g *graph) dropVolume(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropVolumeLocked(name)
}

func (g *graph) dropVolumeLocked(name string) {
	for _, s := range g.volumes[name].secrets {
		if left := slices.DeleteFunc(g.volumesOf[s], func(n string) bool { return n == name }); len(left) > 0 {
			g.volumesOf[s] = left
		} else {
			delete(g.volumesOf, s)
		}
	}
	delete(g.volumes, name)
}

func (g *graph) setAttachment(a *storagev1.VolumeAttachment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(g.attachments[a.Name])
	c := contribution{node: a.Spec.NodeName, objects: []object{{kind: attachmentObject, name: a.Name}}}
	g.give(c)
	g.attachments[a.Name] = c
}

func (g *graph) dropAttachment(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(g.attachments[name])
	delete(g.attachments, name)
}
