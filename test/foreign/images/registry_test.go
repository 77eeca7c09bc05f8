package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// What is pulled is what was packed: every digest that a manifest names is that of the blob served under it.
func TestRegistryServesWhatWasPacked(t *testing.T) {
	dir := t.TempDir()
	all := []Image{
		{Refs: []string{"registry.example/team/a:1", "registry.example/team/b:2"}, Texts: map[string]string{"hello": "world"}, Config: Config{Cmd: []string{"/hello"}}},
		{Refs: []string{"registry.example/c:1"}, Texts: map[string]string{"hello": "moon"}},
	}
	archive, err := Archive(dir, all)
	if err != nil {
		t.Fatal(err)
	}
	former := archive
	if archive, err = Archive(dir, append(all, Image{Refs: []string{"registry.example/d:1"}})); err != nil || archive == former {
		t.Fatalf("other images, same archive %s (%v)", filepath.Base(archive), err)
	}
	if _, err := os.Stat(former); !os.IsNotExist(err) {
		t.Errorf("the former archive: %v", err)
	}
	r, err := OpenRegistry(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	server := httptest.NewServer(r)
	defer server.Close()
	get := func(path string) (int, []byte) {
		answer, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		b, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, b
	}
	for _, path := range []string{"/v2/team/a/manifests/1", "/v2/team/b/manifests/2", "/v2/c/manifests/1"} {
		code, b := get(path)
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		if err := json.Unmarshal(b, &manifest); code != 200 || err != nil || len(manifest.Layers) != 1 {
			t.Fatalf("%s: %d %s %v", path, code, b, err)
		}
		for _, d := range append(manifest.Layers, manifest.Config) {
			code, b := get("/v2/team/a/blobs/" + d.Digest)
			s := sha256.Sum256(b)
			if got := "sha256:" + hex.EncodeToString(s[:]); code != 200 || got != d.Digest || int64(len(b)) != d.Size {
				t.Errorf("%s: %s is %d bytes of %s (%d)", path, d.Digest, len(b), got, code)
			}
		}
	}
	for _, path := range []string{"/v2/team/a/manifests/2", "/v2/team/a/blobs/sha256:00"} {
		if code, _ := get(path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}
