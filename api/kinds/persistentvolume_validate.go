package kinds

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// accessModes are the ways to use a volume, in upstream's order.
var accessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

var volumeModes = []corev1.PersistentVolumeMode{corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem}

// volumePlace says where the specification of a volume stands.
type volumePlace bool

const (
	volumeStored volumePlace = false // in a PersistentVolume
	volumeInline volumePlace = true  // in a VolumeAttachment, where only what a CSI driver needs may be said
)

// volumeSpec checks the specification of a volume of that name; with anyValue malformed label values in the node affinity pass.
func (c *podCheck) volumeSpec(w *where, s *corev1.PersistentVolumeSpec, name string, place volumePlace, anyValue bool) {
	inline := place == volumeInline
	const notInline = "may not be specified in the context of inline volumes"
	if inline {
		if s.ClaimRef != nil {
			c.forbidden(w.field("claimRef"), notInline)
		}
		if len(s.Capacity) > 0 {
			c.forbidden(w.field("capacity"), notInline)
		}
		if s.CSI == nil {
			c.required(w.field("csi"), "has to be specified in the context of inline volumes")
		}
	}
	if len(s.AccessModes) == 0 {
		c.required(w.field("accessModes"), "")
	}
	validateAccessModes(&c.faults, w.field("accessModes"), s.AccessModes)
	if !inline {
		c.volumeCapacity(w.field("capacity"), s.Capacity)
	}
	switch p := s.PersistentVolumeReclaimPolicy; {
	case inline && p != "" && p != corev1.PersistentVolumeReclaimRetain:
		c.forbidden(w.field("persistentVolumeReclaimPolicy"), "may only be "+string(corev1.PersistentVolumeReclaimRetain)+" in the context of inline volumes")
	case !inline:
		oneOfOrEmpty(&c.faults, w.field("persistentVolumeReclaimPolicy"), p, []corev1.PersistentVolumeReclaimPolicy{
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain})
	}
	if s.NodeAffinity != nil {
		switch at := w.field("nodeAffinity"); {
		case inline:
			c.forbidden(at, notInline)
		case s.NodeAffinity.Required == nil:
			c.required(at.field("required"), "must specify required node constraints")
		default:
			validateNodeSelector(&c.faults, at.field("required"), s.NodeAffinity.Required, anyValue)
		}
	}
	c.volumeSource(w, s, name, place)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		c.forbidden(w.field("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
	}
	if s.StorageClassName != "" {
		if inline {
			c.forbidden(w.field("storageClassName"), notInline)
		} else {
			c.dnsSubdomain(w.field("storageClassName"), s.StorageClassName)
		}
	}
	if m := s.VolumeMode; m != nil {
		switch {
		case !inline:
			knownValue(&c.faults, w.field("volumeMode"), *m, volumeModes)
		case *m != corev1.PersistentVolumeFilesystem:
			c.forbidden(w.field("volumeMode"), "may not specify volumeMode other than "+string(corev1.PersistentVolumeFilesystem)+" in the context of inline volumes")
		}
	}
	// In an attachment upstream leaves the class alone.
	if class := s.VolumeAttributesClassName; class != nil && !inline {
		if *class == "" {
			c.required(w.field("volumeAttributesClassName"), "an empty string is disallowed")
		} else {
			c.dnsSubdomain(w.field("volumeAttributesClassName"), *class)
		}
		if s.CSI == nil {
			c.required(w.field("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
}

// volumeCapacity wants a size, and nothing else.
func (c *podCheck) volumeCapacity(w *where, capacity corev1.ResourceList) {
	if len(capacity) == 0 {
		c.required(w, "")
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		c.keep(field.NotSupported(w.path(), capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for name, size := range capacity {
		at := w.key(string(name))
		if size.Value() < 0 {
			c.invalid(at, size.Value(), "must be a valid resource quantity")
		}
		if size.Sign() <= 0 {
			c.invalid(at, size.String(), "must be greater than zero")
		}
	}
}

// volumeSource checks that a volume is of one type, and its source. As in pods the first type set counts, in upstream's
// order, and some names in the paths are upstream's slips.
func (c *podCheck) volumeSource(w *where, s *corev1.PersistentVolumeSpec, name string, place volumePlace) {
	types := 0
	// first reports whether a type is the first of those set.
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		if types++; types > 1 {
			c.forbidden(w.field(name), "may not specify more than 1 volume type")
			types = 1
			return false
		}
		return true
	}
	if first("hostPath", s.HostPath != nil) {
		c.hostPath(w.field("hostPath"), s.HostPath)
	}
	if first("gcePersistentDisk", s.GCEPersistentDisk != nil) {
		c.gceDisk(w.field("persistentDisk"), s.GCEPersistentDisk)
	}
	if first("awsElasticBlockStore", s.AWSElasticBlockStore != nil) {
		c.awsDisk(w.field("awsElasticBlockStore"), s.AWSElasticBlockStore)
	}
	if first("glusterfs", s.Glusterfs != nil) {
		at := w.field("glusterfs")
		c.needs(at.field("endpoints"), s.Glusterfs.EndpointsName)
		c.needs(at.field("path"), s.Glusterfs.Path)
		if n := s.Glusterfs.EndpointsNamespace; n != nil {
			if *n == "" {
				c.invalid(at.field("endpointsNamespace"), *n, "if the endpointnamespace is set, it must be a valid namespace name")
			} else {
				c.dnsLabel(at.field("endpointsNamespace"), *n)
			}
		}
	}
	if first("flocker", s.Flocker != nil) {
		c.flocker(w.field("flocker"), s.Flocker)
	}
	if first("nfs", s.NFS != nil) {
		c.nfs(w.field("nfs"), s.NFS)
	}
	if first("rbd", s.RBD != nil) {
		if len(s.RBD.CephMonitors) == 0 {
			c.required(w.field("rbd").field("monitors"), "")
		}
		c.needs(w.field("rbd").field("image"), s.RBD.RBDImage)
	}
	if first("quobyte", s.Quobyte != nil) {
		c.quobyte(w.field("quobyte"), s.Quobyte)
	}
	if types > 0 && s.CephFS != nil {
		first("cephFS", true)
	} else if first("cephfs", s.CephFS != nil) && len(s.CephFS.Monitors) == 0 {
		c.required(w.field("cephfs").field("monitors"), "")
	}
	if first("iscsi", s.ISCSI != nil) {
		c.storedISCSI(w.field("iscsi"), s.ISCSI, name)
	}
	if first("cinder", s.Cinder != nil) {
		at := w.field("cinder")
		c.needs(at.field("volumeID"), s.Cinder.VolumeID)
		if ref := s.Cinder.SecretRef; ref != nil {
			c.needs(at.field("secretRef").field("name"), ref.Name)
			c.needs(at.field("secretRef").field("namespace"), ref.Namespace)
		}
	}
	if first("fc", s.FC != nil) {
		c.fibreChannel(w.field("fc"), s.FC)
	}
	if s.FlexVolume != nil { // may stand beside another
		types = 1
		c.flexDriver(w.field("flexVolume"), s.FlexVolume.Driver, s.FlexVolume.Options)
	}
	if first("azureFile", s.AzureFile != nil) {
		at := w.field("azureFile")
		c.needs(at.field("secretName"), s.AzureFile.SecretName)
		c.needs(at.field("shareName"), s.AzureFile.ShareName)
		if n := s.AzureFile.SecretNamespace; n != nil {
			c.needs(at.field("secretNamespace"), *n)
		}
	}
	if first("vsphereVolume", s.VsphereVolume != nil) {
		c.needs(w.field("vsphereVolume").field("volumePath"), s.VsphereVolume.VolumePath)
	}
	if first("photonPersistentDisk", s.PhotonPersistentDisk != nil) {
		c.needs(w.field("photonPersistentDisk").field("pdID"), s.PhotonPersistentDisk.PdID)
	}
	if first("portworxVolume", s.PortworxVolume != nil) {
		c.needs(w.field("portworxVolume").field("volumeID"), s.PortworxVolume.VolumeID)
	}
	if first("azureDisk", s.AzureDisk != nil) {
		c.azureDisk(w.field("azureDisk"), s.AzureDisk)
	}
	if first("scaleIO", s.ScaleIO != nil) {
		at := w.field("scaleIO")
		c.needs(at.field("gateway"), s.ScaleIO.Gateway)
		c.needs(at.field("system"), s.ScaleIO.System)
		c.needs(at.field("volumeName"), s.ScaleIO.VolumeName)
	}
	if first("local", s.Local != nil) {
		at := w.field("local").field("path")
		if s.Local.Path == "" {
			c.required(at, "")
		} else {
			c.noBacksteps(at, s.Local.Path)
		}
		if s.NodeAffinity == nil || place == volumeInline {
			c.required(w.field("nodeAffinity"), "Local volume requires node affinity")
		}
	}
	if first("storageos", s.StorageOS != nil) {
		c.storedStorageOS(w.field("storageos"), s.StorageOS)
	}
	if first("csi", s.CSI != nil) {
		c.storedCSI(w.field("csi"), s.CSI)
	}
	if types == 0 {
		c.required(w, "must specify a volume type")
	}
}

func (c *podCheck) storedISCSI(w *where, s *corev1.ISCSIPersistentVolumeSource, volume string) {
	c.needs(w.field("targetPortal"), s.TargetPortal)
	if s.InitiatorName != nil && len(volume)+1+len(s.TargetPortal) > 64 {
		c.invalid(w.field("targetportal"), s.TargetPortal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	name := func(at *where, value string) {
		if format := iscsiNames[value[:min(3, len(value))]]; format == nil || !format.MatchString(value) {
			c.invalid(at, value, "must be valid format")
		}
	}
	if s.IQN == "" {
		c.required(w.field("iqn"), "")
	} else {
		name(w.field("iqn"), s.IQN)
	}
	if s.Lun < 0 || s.Lun > 255 {
		c.invalid(w.field("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		c.required(w.field("secretRef"), "")
	}
	if s.SecretRef != nil {
		c.needs(w.field("secretRef").field("name"), s.SecretRef.Name)
	}
	if s.InitiatorName != nil {
		name(w.field("initiatorname"), *s.InitiatorName)
	}
}

func (c *podCheck) storedStorageOS(w *where, s *corev1.StorageOSPersistentVolumeSource) {
	if s.VolumeName == "" {
		c.required(w.field("volumeName"), "")
	} else {
		c.dnsLabel(w.field("volumeName"), s.VolumeName)
	}
	if s.VolumeNamespace != "" {
		c.dnsLabel(w.field("volumeNamespace"), s.VolumeNamespace)
	}
	if ref := s.SecretRef; ref != nil {
		c.needs(w.field("secretRef").field("name"), ref.Name)
		c.needs(w.field("secretRef").field("namespace"), ref.Namespace)
	}
}

func (c *podCheck) storedCSI(w *where, s *corev1.CSIPersistentVolumeSource) {
	c.csiDriverName(w.field("driver"), s.Driver)
	c.needs(w.field("volumeHandle"), s.VolumeHandle)
	c.storedSecret(w.field("controllerPublishSecretRef"), s.ControllerPublishSecretRef)
	c.storedSecret(w.field("controllerExpandSecretRef"), s.ControllerExpandSecretRef)
	c.storedSecret(w.field("nodePublishSecretRef"), s.NodePublishSecretRef)
	c.storedSecret(w.field("nodeExpandSecretRef"), s.NodeExpandSecretRef)
}

func (c *podCheck) storedSecret(w *where, ref *corev1.SecretReference) {
	if ref == nil {
		return
	}
	if ref.Name == "" {
		c.required(w.field("name"), "")
	} else {
		c.dnsSubdomain(w.field("name"), ref.Name)
	}
	if ref.Namespace == "" {
		c.required(w.field("namespace"), "")
	} else {
		c.dnsLabel(w.field("namespace"), ref.Namespace)
	}
}
