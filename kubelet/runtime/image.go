package runtime

import (
	"context"
	"fmt"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is an image the runtime has.
type Image struct {
	ID          string
	RepoTags    []string
	RepoDigests []string
	Size        int64 // bytes
	Pinned      bool
	UID         *int64 // the image's numeric user; nil when it names one
	Username    string // the image's user by name; empty when numeric or unset
}

// Auth is a registry credential. Never logged.
type Auth struct{ Username, Password, Auth, ServerAddress, IdentityToken, RegistryToken string }

func image(m *cri.Image) Image {
	i := Image{ID: m.GetId(), RepoTags: m.GetRepoTags(), RepoDigests: m.GetRepoDigests(), Size: int64(m.GetSize()), Pinned: m.GetPinned(), Username: m.GetUsername()}
	if m.GetUid() != nil {
		uid := m.GetUid().GetValue()
		i.UID = &uid
	}
	return i
}

// ImageStatus looks an image up by reference or ID; ok is false when the runtime does not have it.
func (c *Client) ImageStatus(ctx context.Context, ref, handler string) (img Image, ok bool, err error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref, RuntimeHandler: handler}})
	if err != nil {
		return Image{}, false, fmt.Errorf("look up image %s: %w", ref, err)
	}
	if r.GetImage() == nil {
		return Image{}, false, nil
	}
	return image(r.GetImage()), true, nil
}

// PullImage fetches an image and returns its ID. It takes as long as the context allows.
func (c *Client) PullImage(ctx context.Context, ref, handler string, auth *Auth, sandbox *SandboxConfig) (string, error) {
	req := &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref, RuntimeHandler: handler}, SandboxConfig: sandbox}
	if auth != nil {
		req.Auth = &cri.AuthConfig{Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
			ServerAddress: auth.ServerAddress, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken}
	}
	r, err := c.images.PullImage(ctx, req)
	if err != nil {
		return "", fmt.Errorf("pull image %s: %w", ref, err)
	}
	return r.GetImageRef(), nil
}

// ListImages lists all images.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	images := make([]Image, 0, len(r.GetImages()))
	for _, m := range r.GetImages() {
		images = append(images, image(m))
	}
	return images, nil
}

// RemoveImage removes an image with all its tags.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	if _, err := c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}

// ImageFilesystem is the mount point and use, in bytes and inodes, of the file system that holds images.
type ImageFilesystem struct {
	Mountpoint string
	UsedBytes  uint64
	Inodes     uint64
}

// ImageFilesystems reports where images are kept and what they take.
func (c *Client) ImageFilesystems(ctx context.Context) ([]ImageFilesystem, error) {
	ctx, cancel := limit(ctx)
	defer cancel()
	r, err := c.images.ImageFsInfo(ctx, &cri.ImageFsInfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for the image file system: %w", err)
	}
	var all []ImageFilesystem
	for _, f := range r.GetImageFilesystems() {
		all = append(all, ImageFilesystem{f.GetFsId().GetMountpoint(), f.GetUsedBytes().GetValue(), f.GetInodesUsed().GetValue()})
	}
	return all, nil
}
