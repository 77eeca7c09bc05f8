package volumes

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// image is the content of a container image (KEP-4639). The kubelet's image puller fetches it and the runtime mounts
// it; here it only gets its place among the volumes.
type image struct{}

func (image) Name() string                   { return "kubernetes.io/image" }
func (image) Supports(v *corev1.Volume) bool { return v.Image != nil }

func (image) SetUp(_ context.Context, r Request) (Result, error) {
	return Result{ReadOnly: true, Image: r.Volume.Image.Reference}, nil
}

func (image) TearDown(context.Context, types.UID, string, string) error { return nil }
