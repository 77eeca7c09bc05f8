package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// checkVolumes checks the volumes and remembers the right ones for the mounts. meta is nil in templates.
func (c *podCheck) checkVolumes(w *where, meta *metav1.ObjectMeta) {
	podName := ""
	if meta != nil {
		podName = meta.Name
	}
	var names, made nameSet // made: claims that are made for this pod, of which volumes may not speak as others'
	if podName != "" {
		for i := range c.spec.Volumes {
			if c.spec.Volumes[i].Ephemeral != nil {
				made.add(podName + "-" + c.spec.Volumes[i].Name)
			}
		}
	}
	for i := range c.spec.Volumes {
		at, v := w.at(i), &c.spec.Volumes[i]
		before := len(c.list)
		c.volume(at, v, podName)
		if v.Name == "" {
			c.required(at.field("name"), "")
		} else {
			c.dnsLabel(at.field("name"), v.Name)
		}
		if names.has(v.Name) {
			c.duplicate(at.field("name"), v.Name)
		}
		if len(c.list) == before {
			names.add(v.Name)
			c.volumes.add(v)
		}
		if claim := v.PersistentVolumeClaim; claim != nil && made.has(claim.ClaimName) {
			c.invalid(at.field("persistentVolumeClaim").field("claimName"), claim.ClaimName, "must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// volume checks that a volume is of one type, and its source. The first type set counts, in upstream's order; the others are
// forbidden. Some names in the paths are upstream's slips, which clients know by now.
func (c *podCheck) volume(w *where, v *corev1.Volume, podName string) {
	types := 0
	// first reports whether a type is the first of those set.
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		if types++; types > 1 {
			c.forbidden(w.field(name), "may not specify more than 1 volume type")
		}
		return types == 1
	}
	if v.EmptyDir != nil {
		types++
		c.emptyDir(w.field("emptyDir"), v.EmptyDir)
	}
	if first("hostPath", v.HostPath != nil) {
		c.hostPath(w.field("hostPath"), v.HostPath)
	}
	if first("gitRepo", v.GitRepo != nil) {
		c.needs(w.field("gitRepo").field("repository"), v.GitRepo.Repository)
		c.descendingPath(w.field("gitRepo").field("directory"), v.GitRepo.Directory)
	}
	if first("gcePersistentDisk", v.GCEPersistentDisk != nil) {
		c.gceDisk(w.field("persistentDisk"), v.GCEPersistentDisk)
	}
	if first("awsElasticBlockStore", v.AWSElasticBlockStore != nil) {
		c.awsDisk(w.field("awsElasticBlockStore"), v.AWSElasticBlockStore)
	}
	if first("secret", v.Secret != nil) {
		at := w.field("secret")
		c.needs(at.field("secretName"), v.Secret.SecretName)
		c.fileMode(at.field("defaultMode"), v.Secret.DefaultMode)
		c.userID(at.field("defaultUser"), v.Secret.DefaultUser)
		c.keyPaths(at.field("items"), v.Secret.Items)
	}
	if first("nfs", v.NFS != nil) {
		c.nfs(w.field("nfs"), v.NFS)
	}
	if first("iscsi", v.ISCSI != nil) {
		c.iscsi(w.field("iscsi"), v.ISCSI)
	}
	if s := v.ISCSI; s != nil && s.InitiatorName != nil && len(v.Name)+1+len(s.TargetPortal) > 64 {
		c.invalid(w.field("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	if first("glusterfs", v.Glusterfs != nil) {
		c.needs(w.field("glusterfs").field("endpoints"), v.Glusterfs.EndpointsName)
		c.needs(w.field("glusterfs").field("path"), v.Glusterfs.Path)
	}
	if first("flocker", v.Flocker != nil) {
		c.flocker(w.field("flocker"), v.Flocker)
	}
	if first("persistentVolumeClaim", v.PersistentVolumeClaim != nil) {
		c.needs(w.field("persistentVolumeClaim").field("claimName"), v.PersistentVolumeClaim.ClaimName)
	}
	if first("rbd", v.RBD != nil) {
		if len(v.RBD.CephMonitors) == 0 {
			c.required(w.field("rbd").field("monitors"), "")
		}
		c.needs(w.field("rbd").field("image"), v.RBD.RBDImage)
	}
	if first("cinder", v.Cinder != nil) {
		c.needs(w.field("cinder").field("volumeID"), v.Cinder.VolumeID)
		c.secretRef(w.field("cinder").field("secretRef"), v.Cinder.SecretRef)
	}
	if types > 0 && v.CephFS != nil {
		first("cephFS", true)
	} else if first("cephfs", v.CephFS != nil) && len(v.CephFS.Monitors) == 0 {
		c.required(w.field("cephfs").field("monitors"), "")
	}
	if first("quobyte", v.Quobyte != nil) {
		c.quobyte(w.field("quobyte"), v.Quobyte)
	}
	if types > 0 && v.DownwardAPI != nil {
		first("downwarAPI", true)
	} else if first("downwardAPI", v.DownwardAPI != nil) {
		at := w.field("downwardAPI")
		c.fileMode(at.field("defaultMode"), v.DownwardAPI.DefaultMode)
		c.userID(at.field("defaultUser"), v.DownwardAPI.DefaultUser)
		for i := range v.DownwardAPI.Items {
			c.downwardFile(at, &v.DownwardAPI.Items[i])
		}
	}
	if first("fc", v.FC != nil) {
		c.fibreChannel(w.field("fc"), v.FC)
	}
	if first("flexVolume", v.FlexVolume != nil) {
		c.flexVolume(w.field("flexVolume"), v.FlexVolume)
	}
	if first("configMap", v.ConfigMap != nil) {
		at := w.field("configMap")
		c.needs(at.field("name"), v.ConfigMap.Name)
		c.fileMode(at.field("defaultMode"), v.ConfigMap.DefaultMode)
		c.userID(at.field("defaultUser"), v.ConfigMap.DefaultUser)
		c.keyPaths(at.field("items"), v.ConfigMap.Items)
	}
	if first("azureFile", v.AzureFile != nil) {
		c.needs(w.field("azureFile").field("secretName"), v.AzureFile.SecretName)
		c.needs(w.field("azureFile").field("shareName"), v.AzureFile.ShareName)
	}
	if first("vsphereVolume", v.VsphereVolume != nil) {
		c.needs(w.field("vsphereVolume").field("volumePath"), v.VsphereVolume.VolumePath)
	}
	if first("photonPersistentDisk", v.PhotonPersistentDisk != nil) {
		c.needs(w.field("photonPersistentDisk").field("pdID"), v.PhotonPersistentDisk.PdID)
	}
	if first("portworxVolume", v.PortworxVolume != nil) {
		c.needs(w.field("portworxVolume").field("volumeID"), v.PortworxVolume.VolumeID)
	}
	if first("azureDisk", v.AzureDisk != nil) {
		c.azureDisk(w.field("azureDisk"), v.AzureDisk)
	}
	if first("storageos", v.StorageOS != nil) {
		c.storageOS(w.field("storageos"), v.StorageOS)
	}
	if first("projected", v.Projected != nil) {
		c.projected(w.field("projected"), v.Projected)
	}
	if first("scaleIO", v.ScaleIO != nil) {
		at := w.field("scaleIO")
		c.needs(at.field("gateway"), v.ScaleIO.Gateway)
		c.needs(at.field("system"), v.ScaleIO.System)
		c.needs(at.field("volumeName"), v.ScaleIO.VolumeName)
	}
	if first("csi", v.CSI != nil) {
		c.inlineCSI(w.field("csi"), v.CSI)
	}
	if first("ephemeral", v.Ephemeral != nil) {
		c.ephemeral(w, v, podName)
	}
	if first("image", v.Image != nil) {
		at := w.field("image")
		if !c.allow.emptyImageReference {
			c.needs(at.field("reference"), v.Image.Reference)
		}
		oneOf(&c.faults, at.field("pullPolicy"), v.Image.PullPolicy,
			[]corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever})
	}
	if types == 0 {
		c.required(w, "must specify a volume type")
	}
}

// needs is Required for an empty string.
func (f *faults) needs(w *where, value string) {
	if value == "" {
		f.required(w, "")
	}
}

func (f *faults) fileMode(w *where, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		f.invalid(w, *mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func (c *podCheck) emptyDir(w *where, e *corev1.EmptyDirVolumeSource) {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		c.forbidden(w.field("sizeLimit"), "SizeLimit field must be a valid resource quantity")
	}
	if e.Mode != nil && (*e.Mode < 0 || *e.Mode > 0o1777) {
		c.invalid(w.field("mode"), *e.Mode, "must be a number between 0 and 01777 (octal), both inclusive")
	}
}

func (c *podCheck) gceDisk(w *where, d *corev1.GCEPersistentDiskVolumeSource) {
	c.needs(w.field("pdName"), d.PDName)
	c.partition(w.field("partition"), d.Partition)
}

func (c *podCheck) awsDisk(w *where, d *corev1.AWSElasticBlockStoreVolumeSource) {
	c.needs(w.field("volumeID"), d.VolumeID)
	c.partition(w.field("partition"), d.Partition)
}

func (c *podCheck) hostPath(w *where, h *corev1.HostPathVolumeSource) {
	if h.Path == "" {
		c.required(w.field("path"), "")
		return
	}
	c.noBacksteps(w.field("path"), h.Path)
	if h.Type != nil {
		knownValue(&c.faults, w.field("type"), *h.Type, []corev1.HostPathType{corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
			corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket})
	}
}

func (c *podCheck) keyPaths(w *where, items []corev1.KeyToPath) {
	for i := range items {
		c.keyPath(w.at(i), &items[i])
	}
}

func (c *podCheck) keyPath(w *where, k *corev1.KeyToPath) {
	c.needs(w.field("key"), k.Key)
	c.needs(w.field("path"), k.Path)
	c.localPath(w.field("path"), k.Path)
	c.fileMode(w.field("mode"), k.Mode)
	c.userID(w.field("user"), k.User)
}

// downwardFile checks a file that tells about the pod.
func (c *podCheck) downwardFile(w *where, d *corev1.DownwardAPIVolumeFile) {
	c.needs(w.field("path"), d.Path)
	c.localPath(w.field("path"), d.Path)
	switch {
	case d.FieldRef != nil:
		c.fieldSelector(w.field("fieldRef"), d.FieldRef, fileFieldPaths)
		if d.ResourceFieldRef != nil {
			c.invalid(w, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case d.ResourceFieldRef != nil:
		c.resourceSelector(w.field("resourceFieldRef"), d.ResourceFieldRef, true)
	default:
		c.required(w, "one of fieldRef and resourceFieldRef is required")
	}
	c.fileMode(w.field("mode"), d.Mode)
	c.userID(w.field("user"), d.User)
}

func (c *podCheck) inlineCSI(w *where, s *corev1.CSIVolumeSource) {
	c.csiDriverName(w.field("driver"), s.Driver)
	if ref := s.NodePublishSecretRef; ref != nil {
		if ref.Name == "" {
			c.required(w.field("nodePublishSecretRef").field("name"), "")
		} else {
			c.dnsSubdomain(w.field("name"), ref.Name)
		}
	}
}

// ephemeral checks a volume whose claim is made with the pod (KEP-1698).
func (c *podCheck) ephemeral(w *where, v *corev1.Volume, podName string) {
	at := w.field("ephemeral").field("volumeClaimTemplate")
	if t := v.Ephemeral.VolumeClaimTemplate; t == nil {
		c.required(at, "")
	} else {
		c.templateMeta(at.field("metadata"), &t.ObjectMeta)
		validateClaimSpec(&c.faults, at.field("spec"), &t.Spec, false)
	}
	if podName == "" || v.Name == "" {
		return
	}
	claim := podName + "-" + v.Name
	if isDNSSubdomain(claim) {
		return
	}
	for _, msg := range validation.IsDNS1123Subdomain(claim) {
		c.invalid(w.field("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, msg))
	}
}
