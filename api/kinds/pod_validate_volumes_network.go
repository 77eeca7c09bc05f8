package kinds

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The volume types of particular storage systems. Nearly all of them are served by CSI drivers by now; their
// fields are checked as ever.

func (c *podCheck) partition(w *where, n int32) {
	if n < 0 || n > 255 {
		c.invalid(w, n, validation.InclusiveRangeError(1, 255))
	}
}

func (c *podCheck) nfs(w *where, s *corev1.NFSVolumeSource) {
	c.needs(w.field("server"), s.Server)
	c.needs(w.field("path"), s.Path)
	if !path.IsAbs(s.Path) {
		c.invalid(w.field("path"), s.Path, "must be an absolute path")
	}
}

// iscsiNames are the formats of names of initiators and targets (RFC 3720), by their first three letters.
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func (c *podCheck) iscsi(w *where, s *corev1.ISCSIVolumeSource) {
	c.needs(w.field("targetPortal"), s.TargetPortal)
	if s.IQN == "" {
		c.required(w.field("iqn"), "")
	} else {
		c.iscsiName(w.field("iqn"), s.IQN)
	}
	if s.Lun < 0 || s.Lun > 255 {
		c.invalid(w.field("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		c.required(w.field("secretRef"), "")
	}
	if s.InitiatorName != nil {
		c.iscsiName(w.field("initiatorname"), *s.InitiatorName)
	}
}

func (c *podCheck) iscsiName(w *where, name string) {
	format := iscsiNames[name[:min(3, len(name))]]
	switch {
	case format == nil:
		c.invalid(w, name, "must be valid format starting with iqn, eui, or naa")
	case !format.MatchString(name):
		c.invalid(w, name, "must be valid format")
	}
}

func (c *podCheck) fibreChannel(w *where, s *corev1.FCVolumeSource) {
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		c.required(w.field("targetWWNs"), "must specify either targetWWNs or wwids, but not both")
	}
	if len(s.TargetWWNs) == 0 {
		return
	}
	if len(s.WWIDs) > 0 {
		c.invalid(w.field("targetWWNs"), s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if s.Lun == nil {
		c.required(w.field("lun"), "lun is required if targetWWNs is specified")
	} else if *s.Lun < 0 || *s.Lun > 255 {
		c.invalid(w.field("lun"), *s.Lun, validation.InclusiveRangeError(0, 255))
	}
}

func (c *podCheck) flocker(w *where, s *corev1.FlockerVolumeSource) {
	switch {
	case s.DatasetName == "" && s.DatasetUUID == "":
		c.required(w, "one of datasetName and datasetUUID is required")
	case s.DatasetName != "" && s.DatasetUUID != "":
		c.invalid(w, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		c.invalid(w.field("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

func (c *podCheck) quobyte(w *where, s *corev1.QuobyteVolumeSource) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case s.Registry == "":
		c.required(w.field("registry"), pairs)
	case len(s.Tenant) > 64:
		c.required(w.field("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				c.invalid(w.field("registry"), s.Registry, pairs)
			}
		}
	}
	c.needs(w.field("volume"), s.Volume)
}

func (c *podCheck) flexVolume(w *where, s *corev1.FlexVolumeSource) {
	c.flexDriver(w, s.Driver, s.Options)
}

func (c *podCheck) flexDriver(w *where, driver string, options map[string]string) {
	c.needs(w.field("driver"), driver)
	for option := range options {
		domain, _, _ := strings.Cut(option, "/")
		if domain = "." + strings.ToLower(domain); strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			c.invalid(w.field("options").key(option), option, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (c *podCheck) azureDisk(w *where, s *corev1.AzureDiskVolumeSource) {
	c.needs(w.field("diskName"), s.DiskName)
	c.needs(w.field("diskURI"), s.DataDiskURI)
	if s.CachingMode != nil {
		knownValue(&c.faults, w.field("cachingMode"), *s.CachingMode, []corev1.AzureDataDiskCachingMode{
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite})
	}
	if s.Kind == nil {
		return
	}
	knownValue(&c.faults, w.field("kind"), *s.Kind, []corev1.AzureDataDiskKind{
		corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk})
	prefix, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == corev1.AzureManagedDisk {
		prefix, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, prefix) {
		notSupported(&c.faults, w.field("diskURI"), s.DataDiskURI, []string{form})
	}
}

func (c *podCheck) storageOS(w *where, s *corev1.StorageOSVolumeSource) {
	if s.VolumeName == "" {
		c.required(w.field("volumeName"), "")
	} else {
		c.dnsLabel(w.field("volumeName"), s.VolumeName)
	}
	if s.VolumeNamespace != "" {
		c.dnsLabel(w.field("volumeNamespace"), s.VolumeNamespace)
	}
	c.secretRef(w.field("secretRef"), s.SecretRef)
}

func (c *podCheck) secretRef(w *where, ref *corev1.LocalObjectReference) {
	if ref != nil {
		c.needs(w.field("name"), ref.Name)
	}
}
