package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/kms/pkg/service"

	"wherry.dev/wherry/store"
)

// plugin is a KMS v2 plugin whose key is no secret.
type plugin struct {
	key  atomic.Pointer[string]
	down atomic.Bool
}

func (p *plugin) mask(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x5a
	}
	return out
}

func (p *plugin) Encrypt(_ context.Context, _ string, data []byte) (*service.EncryptResponse, error) {
	if p.down.Load() {
		return nil, errors.New("the plugin is down")
	}
	return &service.EncryptResponse{Ciphertext: p.mask(data), KeyID: *p.key.Load()}, nil
}

func (p *plugin) Decrypt(_ context.Context, _ string, r *service.DecryptRequest) ([]byte, error) {
	if p.down.Load() {
		return nil, errors.New("the plugin is down")
	}
	return p.mask(r.Ciphertext), nil
}

func (p *plugin) Status(context.Context) (*service.StatusResponse, error) {
	if p.down.Load() {
		return nil, errors.New("the plugin is down")
	}
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: *p.key.Load()}, nil
}

// A KMS v2 plugin keeps the key: what is stored has upstream's form, another server reads it, and objects that could not be decrypted while the plugin was
// down are there when it is back, with nobody's help.
func TestKMS(t *testing.T) {
	t.Parallel()                        // it waits most of the time
	dir, err := os.MkdirTemp("", "kms") // a short path, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &plugin{}
	first := "first"
	p.key.Store(&first)
	socket := filepath.Join(dir, "s")
	server := service.NewGRPCService(socket, 5*time.Second, p)
	go func() { _ = server.ListenAndServe() }()
	t.Cleanup(server.Close)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the plugin does not listen")
		}
	}

	c, path := startEtcd(t), filepath.Join(dir, "encryption.yaml")
	encryptionFile(t, path, "secrets", fmt.Sprintf("  - kms: {apiVersion: v2, name: p, endpoint: 'unix://%s', timeout: 3s}\n", socket), provider("identity"))
	r := encrypted(t, c, path, true).Resource(secretConfig)
	// The first status of the plugin comes a moment after the start.
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err = r.Create(t.Context(), "a", "x", newSecret("x"), 0); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if v := *raw(t, c, "/registry/secrets/a/x"); !strings.HasPrefix(string(v), "k8s:enc:kms:v2:p:") || bytes.Contains(v, []byte(plaintext)) {
		t.Fatalf("stored %q", v)
	}
	if o := touch(t, r, "x"); o.Revision == 0 {
		t.Fatal("no revision")
	}

	// Another server starts while the plugin is down.
	p.down.Store(true)
	other := encrypted(t, c, path, true).Resource(secretConfig)
	if _, err := other.List(t.Context(), store.ListOptions{}); err == nil || !strings.Contains(err.Error(), `unable to transform key "/registry/secrets/a/x"`) {
		t.Fatalf("list while the plugin is down: %v", err)
	}
	p.down.Store(false)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		l, err := other.List(t.Context(), store.ListOptions{})
		if err == nil && len(l.Items) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the plugin back: %v", err)
		}
	}
}
