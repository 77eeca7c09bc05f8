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
		defaultISCSI(&v.ISCSIInterface)
	}
	if v := s.RBD; v != nil {
		defaultRBD(&v.RBDPool, &v.RadosUser, &v.Keyring)
	}
	if v := s.AzureDisk; v != nil {
		defaultAzureDisk(v)
	}
	if v := s.ScaleIO; v != nil {
		defaultScaleIO(&v.StorageMode, &v.FSType)
	}
}

// A pod's volume and a persistent volume name the same systems by types of their own, with the same fields.

func defaultISCSI(iface *string) { setIfZero(iface, "default") }

func defaultRBD(pool, user, keyring *string) {
	setIfZero(pool, "rbd")
	setIfZero(user, "admin")
	setIfZero(keyring, "/etc/ceph/keyring")
}

func defaultScaleIO(mode, fsType *string) {
	setIfZero(mode, "ThinProvisioned")
	setIfZero(fsType, "xfs")
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
