package plugins

import corev1 "k8s.io/api/core/v1"

// ImageLocality prefers nodes that have the pod's images already, when they are large.
type ImageLocality struct{}

// Below minImage bytes an image is pulled in no time; maxImage bytes for each container count in full (upstream's thresholds).
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// Name implements Plugin.
func (ImageLocality) Name() string { return "ImageLocality" }

// Weight implements Score.
func (ImageLocality) Weight() int64 { return 1 }

// Score implements Score.
func (ImageLocality) Score(pod *Pod, node *Node) int64 {
	if len(node.images) == 0 {
		return 0
	}
	var sum, count int64
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			count++
			sum += node.images[normalizedImageName(containers[i].Image)]
		}
	}
	limit := maxImage * count
	sum = min(max(sum, minImage), limit)
	return MaxScore * (sum - minImage) / (limit - minImage)
}

// Normalize implements Score.
func (ImageLocality) Normalize(*Pod) Normalization { return AsIs }
