package kinds

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func (c *podCheck) mounts(w *where, container *corev1.Container) {
	var paths, deviceNames, devicePaths nameSet
	for i := range container.VolumeDevices {
		deviceNames.add(container.VolumeDevices[i].Name)
		devicePaths.add(container.VolumeDevices[i].DevicePath)
	}
	for i := range container.VolumeMounts {
		at, m := w.at(i), &container.VolumeMounts[i]
		volume := c.volumes.get(m.Name)
		if m.Name == "" {
			c.required(at.field("name"), "")
		}
		if volume == nil {
			c.notFound(at.field("name"), m.Name)
		}
		if m.MountPath == "" {
			c.required(at.field("mountPath"), "")
		}
		if !paths.add(m.MountPath) {
			c.invalid(at.field("mountPath"), m.MountPath, "must be unique")
		}
		if deviceNames.has(m.Name) {
			c.invalid(at.field("name"), m.Name, "must not already exist in volumeDevices")
		}
		if devicePaths.has(m.MountPath) {
			c.invalid(at.field("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		// Upstream leaves the index out of the paths of what follows.
		if m.SubPath != "" {
			c.descendingPath(w.field("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				c.invalid(at.field("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			c.descendingPath(w.field("subPathExpr"), m.SubPathExpr)
		}
		if m.MountPropagation != nil {
			c.mountPropagation(w.field("mountPropagation"), *m.MountPropagation, container.SecurityContext)
		}
		if m.RecursiveReadOnly != nil {
			c.recursiveReadOnly(w.field("recursiveReadOnly"), m)
		}
		if len(m.BindMountOptions) > 0 {
			c.bindMountOptions(at.field("bindMountOptions"), m, volume)
		}
	}
}

func (c *podCheck) mountPropagation(w *where, mode corev1.MountPropagationMode, security *corev1.SecurityContext) {
	knownValue(&c.faults, w, mode, []corev1.MountPropagationMode{
		corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone})
	if mode == corev1.MountPropagationBidirectional && (security == nil || !isTrue(security.Privileged)) {
		c.forbidden(w, "Bidirectional mount propagation is available only to privileged containers")
	}
}

// recursiveReadOnly checks KEP-3857's field.
func (c *podCheck) recursiveReadOnly(w *where, m *corev1.VolumeMount) {
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyDisabled:
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			c.forbidden(w, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			c.forbidden(w, "may only be specified when mountPropagation is None or not specified")
		}
	default:
		notSupported(&c.faults, w, *m.RecursiveReadOnly, []corev1.RecursiveReadOnlyMode{
			corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible})
	}
}

func (c *podCheck) bindMountOptions(w *where, m *corev1.VolumeMount, volume *corev1.Volume) {
	var seen nameSet
	for i, option := range m.BindMountOptions {
		knownValue(&c.faults, w.at(i), option, []string{
			string(corev1.BindMountOptionNoDev), string(corev1.BindMountOptionNoExec), string(corev1.BindMountOptionNoSUID)})
		if !seen.add(option) {
			c.duplicate(w.at(i), option)
		}
	}
	if volume != nil && volume.Image != nil {
		c.invalid(w, m.BindMountOptions, "bindMountOptions may not be used with image volumes")
	}
}

// devices checks block devices: each is a claim of its own, at a path of its own.
func (c *podCheck) devices(w *where, container *corev1.Container) {
	if len(container.VolumeDevices) == 0 {
		return
	}
	var names, paths, mountNames, mountPaths nameSet
	for i := range container.VolumeMounts {
		mountNames.add(container.VolumeMounts[i].Name)
		mountPaths.add(container.VolumeMounts[i].MountPath)
	}
	for i := range container.VolumeDevices {
		at, d := w.at(i), &container.VolumeDevices[i]
		if d.Name == "" {
			c.required(at.field("name"), "")
		}
		if names.has(d.Name) {
			c.invalid(at.field("name"), d.Name, "must be unique")
		}
		switch volume := c.volumes.get(d.Name); {
		case volume == nil:
			c.notFound(at.field("name"), d.Name)
		case volume.PersistentVolumeClaim == nil && volume.Ephemeral == nil:
			c.invalid(at.field("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if d.DevicePath == "" {
			c.required(at.field("devicePath"), "")
		}
		if paths.has(d.DevicePath) {
			c.invalid(at.field("devicePath"), d.DevicePath, "must be unique")
		}
		if hasBacksteps(d.DevicePath) {
			c.invalid(at.field("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths.add(d.DevicePath)
		}
		if mountNames.has(d.Name) {
			c.invalid(at.field("name"), d.Name, "must not already exist in volumeMounts")
		}
		if mountPaths.has(d.DevicePath) {
			c.invalid(at.field("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		if d.Name != "" {
			names.add(d.Name)
		}
	}
}

// descendingPath checks a path that must stay below where it is put.
func (f *faults) descendingPath(w *where, p string) {
	if path.IsAbs(p) {
		f.invalid(w, p, "must be a relative path")
	}
	f.noBacksteps(w, p)
}

// localPath checks a descending path whose first element is not one that the kubelet keeps to itself ("..data").
func (f *faults) localPath(w *where, p string) {
	f.descendingPath(w, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		f.invalid(w, p, "must not start with '..'")
	}
}

func (f *faults) noBacksteps(w *where, p string) {
	if hasBacksteps(p) {
		f.invalid(w, p, "must not contain '..'")
	}
}

// hasBacksteps reports whether p has an element "..".
func hasBacksteps(p string) bool {
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}
