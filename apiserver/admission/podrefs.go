package admission

import (
	corev1 "k8s.io/api/core/v1"
)

// secretNames returns the secrets that a pod refers to anywhere.
func secretNames(p *corev1.Pod) []string {
	var names []string
	add := func(name string) {
		if name != "" {
			names = append(names, name)
		}
	}
	for _, ref := range p.Spec.ImagePullSecrets {
		add(ref.Name)
	}
	eachEnv(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			if s := env[i].ValueFrom; s != nil && s.SecretKeyRef != nil {
				add(s.SecretKeyRef.Name)
			}
		}
		for i := range from {
			if from[i].SecretRef != nil {
				add(from[i].SecretRef.Name)
			}
		}
	})
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			add(v.Secret.SecretName)
		case v.AzureFile != nil:
			add(v.AzureFile.SecretName)
		case v.Projected != nil:
			for j := range v.Projected.Sources {
				if s := v.Projected.Sources[j].Secret; s != nil {
					add(s.Name)
				}
			}
		}
		for _, ref := range volumeSecrets(v) {
			if ref != nil {
				add(ref.Name)
			}
		}
	}
	return names
}

// volumeSecrets returns the secret references of volume types that carry a plain one.
func volumeSecrets(v *corev1.Volume) []*corev1.LocalObjectReference {
	var refs []*corev1.LocalObjectReference
	if v.CSI != nil {
		refs = append(refs, v.CSI.NodePublishSecretRef)
	}
	if v.CephFS != nil {
		refs = append(refs, v.CephFS.SecretRef)
	}
	if v.Cinder != nil {
		refs = append(refs, v.Cinder.SecretRef)
	}
	if v.FlexVolume != nil {
		refs = append(refs, v.FlexVolume.SecretRef)
	}
	if v.ISCSI != nil {
		refs = append(refs, v.ISCSI.SecretRef)
	}
	if v.RBD != nil {
		refs = append(refs, v.RBD.SecretRef)
	}
	if v.ScaleIO != nil {
		refs = append(refs, v.ScaleIO.SecretRef)
	}
	if v.StorageOS != nil {
		refs = append(refs, v.StorageOS.SecretRef)
	}
	return refs
}

// usesConfigMaps says whether a pod refers to a ConfigMap anywhere.
func usesConfigMaps(p *corev1.Pod) bool {
	found := false
	eachEnv(p, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for i := range env {
			found = found || env[i].ValueFrom != nil && env[i].ValueFrom.ConfigMapKeyRef != nil
		}
		for i := range from {
			found = found || from[i].ConfigMapRef != nil
		}
	})
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		found = found || v.ConfigMap != nil
		if v.Projected != nil {
			for j := range v.Projected.Sources {
				found = found || v.Projected.Sources[j].ConfigMap != nil
			}
		}
	}
	return found
}

func eachEnv(p *corev1.Pod, visit func([]corev1.EnvVar, []corev1.EnvFromSource)) {
	for i := range p.Spec.InitContainers {
		visit(p.Spec.InitContainers[i].Env, p.Spec.InitContainers[i].EnvFrom)
	}
	for i := range p.Spec.Containers {
		visit(p.Spec.Containers[i].Env, p.Spec.Containers[i].EnvFrom)
	}
	for i := range p.Spec.EphemeralContainers {
		visit(p.Spec.EphemeralContainers[i].Env, p.Spec.EphemeralContainers[i].EnvFrom)
	}
}
