package kinds

import (
	corev1 "k8s.io/api/core/v1"
)

// alphaField is a field of pods that the API types know but this minor does not offer yet (its feature gate is
// alpha or off by default in upstream). It finds the field where it is set; with drop it also clears it.
type alphaField func(pod *corev1.Pod, drop bool) (set bool)

// dropAlphaFields clears the alpha fields that old does not use already (old is nil on create): what
// a server with a feature has accepted is not lost by a server without it. Dead annotations of init containers' early days go too.
func dropAlphaFields(pod, old *corev1.Pod) {
	for _, f := range [...]alphaField{
		alphaEmptyDirMode,         // EmptyDirVolumeMode
		alphaVolumeUsers,          // AtomicWriteVolumeUserFields
		alphaBindMountOptions,     // VolumeBindMountOptions
		alphaHTTPProtocol,         // H2CContainerProbe
		alphaGRPCMode,             // GRPCContainerProbeTLS
		alphaStopSignal,           // ContainerStopSignals
		alphaSchedulingGroup,      // GenericWorkload
		alphaEvictionResponders,   // EvictionRequestAPI
		alphaImageVolumeStatus,    // ImageVolumeWithDigest
		alphaClaimAllocatableInfo, // DRANodeAllocatableResources
		alphaVolumeHealth,         // CSIVolumeHealth
	} {
		if f(pod, false) && (old == nil || !f(old, false)) {
			f(pod, true)
		}
	}
	if len(pod.Annotations) > 0 {
		delete(pod.Annotations, "pod.beta.kubernetes.io/init-containers")
		delete(pod.Annotations, "pod.alpha.kubernetes.io/init-containers")
		delete(pod.Annotations, "pod.beta.kubernetes.io/init-container-statuses")
		delete(pod.Annotations, "pod.alpha.kubernetes.io/init-container-statuses")
	}
}

// found notes that *field is set and clears it if asked to.
func found[T comparable](field *T, drop bool, set *bool) {
	var zero T
	if *field == zero {
		return
	}
	*set = true
	if drop {
		*field = zero
	}
}

func alphaEmptyDirMode(pod *corev1.Pod, drop bool) (set bool) {
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].EmptyDir; v != nil {
			found(&v.Mode, drop, &set)
		}
	}
	return set
}

func alphaVolumeUsers(pod *corev1.Pod, drop bool) (set bool) {
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			found(&items[i].User, drop, &set)
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			found(&items[i].User, drop, &set)
		}
	}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i].VolumeSource; {
		case v.Secret != nil:
			found(&v.Secret.DefaultUser, drop, &set)
			keys(v.Secret.Items)
		case v.ConfigMap != nil:
			found(&v.ConfigMap.DefaultUser, drop, &set)
			keys(v.ConfigMap.Items)
		case v.DownwardAPI != nil:
			found(&v.DownwardAPI.DefaultUser, drop, &set)
			files(v.DownwardAPI.Items)
		case v.Projected != nil:
			found(&v.Projected.DefaultUser, drop, &set)
			for j := range v.Projected.Sources {
				switch s := &v.Projected.Sources[j]; {
				case s.Secret != nil:
					keys(s.Secret.Items)
				case s.DownwardAPI != nil:
					files(s.DownwardAPI.Items)
				case s.ConfigMap != nil:
					keys(s.ConfigMap.Items)
				case s.ServiceAccountToken != nil:
					found(&s.ServiceAccountToken.User, drop, &set)
				case s.ClusterTrustBundle != nil:
					found(&s.ClusterTrustBundle.User, drop, &set)
				case s.PodCertificate != nil:
					found(&s.PodCertificate.User, drop, &set)
				}
			}
		}
	}
	return set
}

func alphaBindMountOptions(pod *corev1.Pod, drop bool) (set bool) {
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		for i := range c.VolumeMounts {
			m := &c.VolumeMounts[i]
			if m.BindMountOptions == nil {
				continue
			}
			set = true
			if drop {
				m.BindMountOptions = nil
			}
		}
	})
	return set
}

func alphaHTTPProtocol(pod *corev1.Pod, drop bool) (set bool) {
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		for _, p := range [...]*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && p.HTTPGet != nil {
				found(&p.HTTPGet.Protocol, drop, &set)
			}
		}
		if c.Lifecycle == nil {
			return
		}
		for _, h := range [...]*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				found(&h.HTTPGet.Protocol, drop, &set)
			}
		}
	})
	return set
}

func alphaGRPCMode(pod *corev1.Pod, drop bool) (set bool) {
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		for _, p := range [...]*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && p.GRPC != nil {
				found(&p.GRPC.Mode, drop, &set)
			}
		}
	})
	return set
}

func alphaStopSignal(pod *corev1.Pod, drop bool) (set bool) {
	eachContainer(&pod.Spec, func(c *corev1.Container) {
		if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
			return
		}
		found(&c.Lifecycle.StopSignal, drop, &set)
		if drop && *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	})
	return set
}

func alphaSchedulingGroup(pod *corev1.Pod, drop bool) (set bool) {
	found(&pod.Spec.SchedulingGroup, drop, &set)
	return set
}

func alphaEvictionResponders(pod *corev1.Pod, drop bool) bool {
	set := pod.Spec.EvictionResponders != nil
	if drop {
		pod.Spec.EvictionResponders = nil
	}
	return set
}

func alphaImageVolumeStatus(pod *corev1.Pod, drop bool) (set bool) {
	eachContainerStatus(&pod.Status, func(s *corev1.ContainerStatus) {
		for i := range s.VolumeMounts {
			found(&s.VolumeMounts[i].VolumeStatus, drop, &set)
		}
	})
	return set
}

func alphaClaimAllocatableInfo(pod *corev1.Pod, drop bool) bool {
	set := pod.Status.NodeAllocatableResourceClaimStatuses != nil
	if drop {
		pod.Status.NodeAllocatableResourceClaimStatuses = nil
	}
	return set
}

func alphaVolumeHealth(pod *corev1.Pod, drop bool) bool {
	set := pod.Status.VolumeHealth != nil
	if drop {
		pod.Status.VolumeHealth = nil
	}
	return set
}

// eachContainerStatus calls f with the status of each container of any sort.
func eachContainerStatus(s *corev1.PodStatus, f func(*corev1.ContainerStatus)) {
	for _, list := range [...][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			f(&list[i])
		}
	}
}
