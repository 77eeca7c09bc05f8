package conformance

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
)

// TestImages looks at the archive of images, without a cluster to run them on.
func TestImages(t *testing.T) {
	need(t)
	archive := os.Getenv(imagesVariable)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var manifest []struct{ RepoTags, Layers []string }
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d %s", h.Size, h.Name)
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(r).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(manifest) < 10 {
		t.Errorf("%d images in %s", len(manifest), archive)
	}
}
