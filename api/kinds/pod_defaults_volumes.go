package kinds

import (
	corev1 "k8s.io/api/core/v1"
)

// defaultVolume fills in what a volume leaves out; a volume of no type is an emptyDir.
func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		return
	}
	// A volume of two types is wrong, but validation comes later: each type has its defaults on its own.
	s := &v.VolumeSource
	if s.Secret != nil {
		defaultMode(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if s.ConfigMap != nil {
		defaultMode(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if s.Projected != nil {
		defaultProjected(s.Projected)
	}
	if s.DownwardAPI != nil {
		defaultMode(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownwardFiles(s.DownwardAPI.Items)
	}
	if s.HostPath != nil && s.HostPath.Type == nil {
		s.HostPath.Type = ptrTo(corev1.HostPathUnset)
	}
	if s.Image != nil && s.Image.PullPolicy == "" {
		s.Image.PullPolicy = defaultPullPolicy(s.Image.Reference)
	}
	if s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil {
		defaultClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	}
	defaultNetworkDisk(s)
}

// defaultNetworkDisk has the defaults of the storage systems with volume types of their own.
func defaultNetworkDisk(s *corev1.VolumeSource) {
	if v := s.ISCSI; v != nil {
		setIfZero(&v.ISCSIInterface, "default")
	}
	if v := s.RBD; v != nil {
		setIfZero(&v.RBDPool, "rbd")
		setIfZero(&v.RadosUser, "admin")
		setIfZero(&v.Keyring, "/etc/ceph/keyring")
	}
	if v := s.AzureDisk; v != nil {
		defaultAzureDisk(v)
	}
	if v := s.ScaleIO; v != nil {
		setIfZero(&v.StorageMode, "ThinProvisioned")
		setIfZero(&v.FSType, "xfs")
	}
}

func defaultAzureDisk(v *corev1.AzureDiskVolumeSource) {
	if v.CachingMode == nil {
		v.CachingMode = ptrTo(corev1.AzureDataDiskCachingReadWrite)
	}
	if v.Kind == nil {
		v.Kind = ptrTo(corev1.AzureSharedBlobDisk)
	}
	if v.FSType == nil {
		v.FSType = ptrTo("ext4")
	}
	if v.ReadOnly == nil {
		v.ReadOnly = ptrTo(false)
	}
}

func defaultProjected(p *corev1.ProjectedVolumeSource) {
	defaultMode(&p.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		if d := p.Sources[i].DownwardAPI; d != nil {
			defaultDownwardFiles(d.Items)
		}
		if t := p.Sources[i].ServiceAccountToken; t != nil && t.ExpirationSeconds == nil {
			t.ExpirationSeconds = ptrTo(int64(3600))
		}
	}
}

func defaultDownwardFiles(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		if ref := files[i].FieldRef; ref != nil && ref.APIVersion == "" {
			ref.APIVersion = "v1"
		}
	}
}

// defaultClaimSpec fills in what the specification of a persistent volume claim leaves out.
func defaultClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	if s.VolumeMode == nil {
		s.VolumeMode = ptrTo(corev1.PersistentVolumeFilesystem)
	}
	roundToMilli(s.Resources.Limits)
	roundToMilli(s.Resources.Requests)
}

func defaultMode(mode **int32, value int32) {
	if *mode == nil {
		*mode = ptrTo(value)
	}
}
