package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
)

// Registry serves the images of an archive for pulling, as far as runtimes ask (OCI distribution specification). Each image is served under its
// name without the host, whatever registry that names. The archive must not change meanwhile.
type Registry struct {
	file      *os.File
	blobs     map[string]span   // by digest
	manifests map[string][]byte // by repository:tag and repository@digest
}

// span is where a blob lies in the archive.
type span struct{ at, size int64 }

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// OpenRegistry reads what is in an archive that Archive made. The caller closes it.
func OpenRegistry(archive string) (*Registry, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	r := &Registry{file: f, blobs: map[string]span{}, manifests: map[string][]byte{}}
	if err := r.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read images of %s: %w", archive, err)
	}
	return r, nil
}

// Close implements io.Closer.
func (r *Registry) Close() error { return r.file.Close() }

func (r *Registry) read() error {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	for t := tar.NewReader(r.file); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		at, err := r.file.Seek(0, io.SeekCurrent) // the reader reads headers only, and no further
		if err != nil {
			return err
		}
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(t).Decode(&list); err != nil {
				return err
			}
			continue
		}
		r.blobs[digestOf(h.Name)] = span{at, h.Size}
	}
	for _, i := range list {
		describe := func(media, file string) descriptor {
			return descriptor{media, digestOf(file), r.blobs[digestOf(file)].size}
		}
		layers := make([]descriptor, len(i.Layers))
		for n, file := range i.Layers {
			layers[n] = describe(mediaLayer, file)
		}
		manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaManifest, "config": describe(mediaConfig, i.Config), "layers": layers})
		if err != nil {
			return err
		}
		for _, ref := range i.RepoTags {
			_, name, _ := strings.Cut(ref, "/")
			repository, _, _ := strings.Cut(name, ":")
			r.manifests[name] = manifest
			r.manifests[repository+"@sha256:"+sum(manifest)] = manifest
		}
	}
	return nil
}

// digestOf is a blob's digest, which its name in the archive begins with.
func digestOf(file string) string { return "sha256:" + strings.TrimSuffix(file, path.Ext(file)) }

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	rest, _ := strings.CutPrefix(q.URL.Path, "/v2/")
	if rest == "" {
		return
	}
	if repository, ref, ok := strings.Cut(rest, "/manifests/"); ok {
		separator := ":"
		if strings.HasPrefix(ref, "sha256:") {
			separator = "@"
		}
		manifest, ok := r.manifests[repository+separator+ref]
		if !ok {
			http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", mediaManifest)
		w.Header().Set("Docker-Content-Digest", "sha256:"+sum(manifest))
		w.Header().Set("Content-Length", fmt.Sprint(len(manifest)))
		if q.Method == http.MethodGet {
			w.Write(manifest)
		}
		return
	}
	_, digest, _ := strings.Cut(rest, "/blobs/")
	blob, ok := r.blobs[digest]
	if !ok {
		http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", fmt.Sprint(blob.size))
	if q.Method == http.MethodGet {
		io.Copy(w, io.NewSectionReader(r.file, blob.at, blob.size))
	}
}
