package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// file is a path in a volume, and what puts it there if several things may.
type file struct {
	path, source string
}

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

// overlaps warns of files in a volume that hide one another.
func (a *advice) overlaps(volumes []corev1.Volume) {
	for i := range volumes {
		v := &volumes[i]
		if v.ConfigMap != nil {
			a.overlapping(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keyFiles(nil, v.ConfigMap.Items, ""))
		}
		if v.Secret != nil {
			a.overlapping(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), keyFiles(nil, v.Secret.Items, ""))
		}
		if v.DownwardAPI != nil {
			a.overlapping(v.Name, "DownwardAPI", downwardFiles(nil, v.DownwardAPI.Items, ""))
		}
		if v.Projected != nil {
			var files []file
			for j := range v.Projected.Sources {
				s := &v.Projected.Sources[j]
				if *s == (corev1.VolumeProjection{}) {
					a.add(fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
					continue
				}
				files = projectedFiles(files, s)
			}
			a.overlapping(v.Name, "Projected", files)
		}
	}
}

func (a *advice) overlapping(volume, what string, files []file) {
	for i, f := range files {
		for _, other := range files[:min(i, compared)] {
			if a.full() {
				return
			}
			if f.path != "" && other.path != "" && (isBelow(f.path, other.path) || isBelow(other.path, f.path)) {
				a.add(fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, what, f, other))
			}
		}
	}
}

// isBelow reports whether path is dir or something in it.
func isBelow(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}

func keyFiles(files []file, items []corev1.KeyToPath, source string) []file {
	for i := range items {
		files = append(files, file{strings.TrimRight(items[i].Path, "/"), source})
	}
	return files
}

func downwardFiles(files []file, items []corev1.DownwardAPIVolumeFile, source string) []file {
	for i := range items {
		files = append(files, file{strings.TrimRight(items[i].Path, "/"), source})
	}
	return files
}

// projectedFiles adds the files of one source whose names the pod itself says.
func projectedFiles(files []file, s *corev1.VolumeProjection) []file {
	one := func(path, source string) {
		if path != "" {
			files = append(files, file{strings.TrimRight(path, "/"), source})
		}
	}
	switch {
	case s.ConfigMap != nil && s.ConfigMap.Items != nil:
		return keyFiles(files, s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil && s.Secret.Items != nil:
		return keyFiles(files, s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil && s.DownwardAPI.Items != nil:
		return downwardFiles(files, s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		one(s.ServiceAccountToken.Path, "ServiceAccountToken")
	case s.ClusterTrustBundle != nil:
		name := ""
		if n := s.ClusterTrustBundle.Name; n != nil {
			name = *n
		} else if n := s.ClusterTrustBundle.SignerName; n != nil {
			name = *n
		}
		one(s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", name))
	case s.PodCertificate != nil:
		one(s.PodCertificate.CertificateChainPath, "PodCertificate chain")
		one(s.PodCertificate.KeyPath, "PodCertificate key")
		one(s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle")
	}
	return files
}
