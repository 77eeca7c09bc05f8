package containerd

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// criNamespace is where containerd's CRI plugin keeps images and containers.
const criNamespace = "k8s.io"

// pinnedLabel keeps an image from the kubelet's garbage collection (CRI Image.pinned).
const pinnedLabel = "io.cri-containerd.pinned"

// Images imports and lists images of one containerd. Safe for concurrent use; Close it.
type Images struct{ client *client.Client }

// OpenImages connects to the containerd at the socket address.
func OpenImages(address string) (*Images, error) {
	c, err := client.New(address, client.WithDefaultNamespace(criNamespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return &Images{client: c}, nil
}

// Close ends the connection.
func (i *Images) Close() error { return i.client.Close() }

// Has reports whether the image of this full name is there and unpacked.
func (i *Images) Has(ctx context.Context, name string) bool {
	image, err := i.client.GetImage(namespaces.WithNamespace(ctx, criNamespace), name)
	if err != nil {
		return false
	}
	unpacked, err := image.IsUnpacked(namespaces.WithNamespace(ctx, criNamespace), "overlayfs")
	return err == nil && unpacked
}

// Import reads an OCI or docker archive (plain, gzip or zstd tar), stores its images for this platform, unpacks them and returns their names.
// A pinned image is kept when the disk is full.
func (i *Images) Import(ctx context.Context, archive io.Reader, pinned bool) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	plain, err := compression.DecompressStream(archive)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	defer plain.Close()
	opts := []client.ImportOpt{client.WithAllPlatforms(false)}
	if pinned {
		opts = append(opts, client.WithImageLabels(map[string]string{pinnedLabel: "pinned"}))
	}
	imported, err := i.client.Import(ctx, plain, opts...)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var names []string
	for _, record := range imported {
		if err := client.NewImage(i.client, record).Unpack(ctx, "overlayfs"); err != nil {
			return names, fmt.Errorf("unpack image %s: %w", record.Name, err)
		}
		names = append(names, record.Name)
	}
	return names, nil
}
