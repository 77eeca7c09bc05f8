package store_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"

	"wherry.dev/wherry/store"
	"wherry.dev/wherry/store/encryption"
)

// plaintext is what must not be found in etcd.
const plaintext = "the-quick-brown-fox"

var secretConfig = store.ResourceConfig{Prefix: "secrets", Namespaced: true, GroupResource: schema.GroupResource{Resource: "secrets"}, Kind: corev1.SchemeGroupVersion.WithKind("Secret")}

func newSecret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}, Data: map[string][]byte{"k": []byte(plaintext)}}
}

// key is a key of n bytes; each letter is another one.
func key(letter string, n int) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(letter), n))
}

// provider is one provider of an EncryptionConfiguration, with keys named after their letter.
func provider(kind string, letters ...string) string {
	if kind == "identity" {
		return "  - identity: {}\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  - %s:\n      keys:\n", kind)
	for _, l := range letters {
		fmt.Fprintf(&b, "      - {name: key-%s, secret: %s}\n", l, key(l, 32))
	}
	return b.String()
}

// encryptionFile writes a configuration that covers resources.
func encryptionFile(t testing.TB, path, resources string, providers ...string) {
	t.Helper()
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n  providers:\n" + strings.Join(providers, "")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// encrypted opens a store that encrypts as path says.
func encrypted(t testing.TB, c *clientv3.Client, path string, reload bool) *store.Store {
	t.Helper()
	e, err := encryption.Open(encryption.Config{File: path, Reload: reload, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	s := open(t, store.Config{Client: c, Transformer: e.Transformer})
	e.OnChange(s.Reread)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func raw(t testing.TB, c *clientv3.Client, key string) *[]byte {
	t.Helper()
	resp, err := c.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("read %s of etcd: %v, %v", key, resp, err)
	}
	return &resp.Kvs[0].Value
}

// touch updates a secret as it is, which is how keys are rotated.
func touch(t testing.TB, r store.Resource, name string) *store.Object {
	t.Helper()
	o, err := r.Update(t.Context(), "a", name, nil, false, func(cur *store.Object) (runtime.Object, error) {
		s := cur.Object.(*corev1.Secret).DeepCopy() // as an update of a client is: equal, not the same
		return s, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Every cipher, wildcards and custom resources: nothing readable in etcd, upstream's prefix, and upstream's own reading of it.
func TestEncryptedAtRest(t *testing.T) {
	widget := store.ResourceConfig{Prefix: "example.com/widgets", Namespaced: true, GroupResource: schema.GroupResource{Group: "example.com", Resource: "widgets"},
		Kind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Serializer: unstructured.UnstructuredJSONScheme}
	for _, test := range []struct{ kind, resources string }{
		{"secretbox", "secrets, widgets.example.com"}, {"aesgcm", "'*.*'"}, {"aescbc", "'*.', '*.example.com'"},
	} {
		t.Run(test.kind, func(t *testing.T) {
			c, path := startEtcd(t), filepath.Join(t.TempDir(), "encryption.yaml")
			encryptionFile(t, path, test.resources, provider(test.kind, "a", "b"), provider("identity"))
			s := encrypted(t, c, path, false)
			secrets, widgets := s.Resource(secretConfig), s.Resource(widget)
			made, err := secrets.Create(t.Context(), "a", "x", newSecret("x"), 0)
			if err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "w", "namespace": "a"}, "spec": plaintext}}
			if _, err := widgets.Create(t.Context(), "a", "w", u, 0); err != nil {
				t.Fatal(err)
			}
			all, err := c.Get(t.Context(), "", clientv3.WithPrefix())
			if err != nil || len(all.Kvs) < 2 {
				t.Fatalf("%v, %v", all, err)
			}
			upstream, err := encryptionconfig.LoadEncryptionConfig(t.Context(), path, false, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range all.Kvs {
				if bytes.Contains(kv.Value, []byte(plaintext)) {
					t.Errorf("%s can be read in etcd: %q", kv.Key, kv.Value)
				}
				if want := "k8s:enc:" + test.kind + ":v1:key-a:"; !strings.HasPrefix(string(kv.Value), want) {
					t.Errorf("%s begins %q, not %q", kv.Key, kv.Value[:min(40, len(kv.Value))], want)
				}
				gr := secretConfig.GroupResource
				if strings.Contains(string(kv.Key), "widgets") {
					gr = widget.GroupResource
				}
				plain, _, err := encryptionconfig.StaticTransformers(upstream.Transformers).TransformerForResource(gr).TransformFromStorage(t.Context(), kv.Value, etcdKey(kv.Key))
				if err != nil || !bytes.Contains(plain, []byte(plaintext)) {
					t.Errorf("upstream reads %s as %q, %v", kv.Key, plain, err)
				}
			}
			// Another server, which has nothing in memory, reads the same.
			again := encrypted(t, c, path, false)
			got, err := again.Resource(secretConfig).Get(t.Context(), "a", "x", "")
			if err != nil || got.Revision != made.Revision || string(got.Object.(*corev1.Secret).Data["k"]) != plaintext {
				t.Fatalf("got %v, %v", got, err)
			}
			if l, err := again.Resource(widget).List(t.Context(), store.ListOptions{}); err != nil || len(l.Items) != 1 {
				t.Fatalf("got %v, %v", l, err)
			}
			if test.kind == "aesgcm" { // a value moved to another key is not authentic
				if _, err := c.Put(t.Context(), "/registry/secrets/a/moved", string(*raw(t, c, "/registry/secrets/a/x"))); err != nil {
					t.Fatal(err)
				}
				if _, err := again.Resource(secretConfig).Get(t.Context(), "a", "moved", ""); err == nil || !strings.Contains(err.Error(), "message authentication failed") {
					t.Fatalf("a value under another key: %v", err)
				}
			}
		})
	}
}

type etcdKey string

func (k etcdKey) AuthenticatedData() []byte { return []byte(k) }

// Keys are rotated by putting a new one first and updating every object as it is, with and without a restart of the server; what is
// written already with the newest key is not written again.
func TestRotateKeys(t *testing.T) {
	for _, reload := range []bool{true, false} {
		t.Run(fmt.Sprintf("reload=%v", reload), func(t *testing.T) {
			c, path := startEtcd(t), filepath.Join(t.TempDir(), "encryption.yaml")
			encryptionFile(t, path, "secrets", provider("identity"))
			r := encrypted(t, c, path, reload).Resource(secretConfig)
			made, err := r.Create(t.Context(), "a", "x", newSecret("x"), 0)
			if err != nil {
				t.Fatal(err)
			}
			last := made.Revision
			for _, step := range []struct {
				providers []string
				prefix    string
			}{
				{[]string{provider("aescbc", "a"), provider("identity")}, "k8s:enc:aescbc:v1:key-a:"},
				{[]string{provider("aescbc", "b", "a")}, "k8s:enc:aescbc:v1:key-b:"},
				{[]string{provider("secretbox", "c"), provider("aescbc", "b")}, "k8s:enc:secretbox:v1:key-c:"},
				{[]string{provider("identity"), provider("secretbox", "c")}, "k8s\x00"},
			} {
				encryptionFile(t, path, "secrets", step.providers...)
				if !reload {
					r = encrypted(t, c, path, false).Resource(secretConfig)
				}
				deadline := time.Now().Add(20 * time.Second)
				for {
					o := touch(t, r, "x")
					if o.Revision != last {
						last = o.Revision
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("the value is not written again with the new key")
					}
				}
				if v := *raw(t, c, "/registry/secrets/a/x"); !strings.HasPrefix(string(v), step.prefix) {
					t.Fatalf("stored %q, want prefix %q", v, step.prefix)
				}
				if o := touch(t, r, "x"); o.Revision != last {
					t.Fatalf("written once more, at revision %d after %d", o.Revision, last)
				}
				got, err := r.Get(t.Context(), "a", "x", "")
				if err != nil || got.Revision != last || string(got.Object.(*corev1.Secret).Data["k"]) != plaintext {
					t.Fatalf("read %v, %v", got, err)
				}
			}
		})
	}
}

// Without the key an object is an error by name, its list fails as upstream's does, others go on, and nobody sees a deletion; when the
// key is there again, everything is.
func TestWrongKey(t *testing.T) {
	c, path := startEtcd(t), filepath.Join(t.TempDir(), "encryption.yaml")
	right, wrong := filepath.Join(t.TempDir(), "right.yaml"), provider("secretbox", "z")
	encryptionFile(t, right, "secrets", provider("secretbox", "a"))
	encryptionFile(t, path, "secrets", wrong)
	writer := encrypted(t, c, right, false).Resource(secretConfig)
	reader := encrypted(t, c, path, true).Resource(secretConfig)
	w, err := reader.Watch(t.Context(), store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	made, err := writer.Create(t.Context(), "a", "x", newSecret("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	// The watch ends: its client lists again, and is told.
	if e := next(t, w, 1); e[0].Type != watch.Error || e[0].Err.Code != 410 {
		t.Fatalf("the watch delivered %+v", e[0])
	}
	if _, err := w.Next(within(t)); err != io.EOF {
		t.Fatalf("after the error: %v", err)
	}
	const want = `Internal error occurred: unable to transform key "/registry/secrets/a/x": no matching key was found for the provided Secretbox transformer`
	complain := func(what string, err error) {
		t.Helper()
		if !apierrors.IsInternalError(err) || err.Error() != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = reader.Get(t.Context(), "a", "x", "")
	complain("get", err)
	_, err = reader.List(t.Context(), store.ListOptions{})
	complain("list", err)
	_, err = reader.List(t.Context(), store.ListOptions{Namespace: "a", ResourceVersion: "0"})
	complain("list from the cache", err)
	_, err = reader.Watch(t.Context(), store.WatchOptions{})
	complain("watch", err)
	_, err = reader.Update(t.Context(), "a", "x", nil, false, func(o *store.Object) (runtime.Object, error) { return o.Object, nil })
	complain("update", err)
	_, err = reader.Delete(t.Context(), "a", "x", nil, nil)
	complain("delete", err)
	if _, err = reader.Create(t.Context(), "a", "x", newSecret("x"), 0); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create over it: %v", err)
	}
	if l, err := reader.List(t.Context(), store.ListOptions{Namespace: "b"}); err != nil || len(l.Items) != 0 {
		t.Errorf("list of another namespace: %v, %v", l, err)
	}
	if _, err := open(t, store.Config{Client: c}).Resource(secretConfig).Get(t.Context(), "a", "x", ""); err == nil || !strings.Contains(err.Error(), "no encryption configuration") {
		t.Errorf("without any configuration: %v", err)
	}

	encryptionFile(t, path, "secrets", wrong, provider("secretbox", "a"))
	deadline := time.Now().Add(20 * time.Second)
	for {
		l, err := reader.List(t.Context(), store.ListOptions{})
		if err == nil {
			if len(l.Items) != 1 || l.Items[0].Revision != made.Revision {
				t.Fatalf("list with the key: %v", l.Items)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the key back: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A configuration that is wrong is refused at the start in one sentence, and changes nothing later.
func TestWrongConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	encryptionFile(t, path, "secrets", "  - aescbc: {keys: [{name: short, secret: "+key("a", 5)+"}]}\n")
	if _, err := encryption.Open(encryption.Config{File: path}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "secret is not of the expected length") {
		t.Fatalf("a short key: %v", err)
	}
	c := startEtcd(t)
	encryptionFile(t, path, "secrets", provider("aesgcm", "a"))
	r := encrypted(t, c, path, true).Resource(secretConfig)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if _, err := r.Create(t.Context(), "a", fmt.Sprint(i), newSecret(fmt.Sprint(i)), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if v := *raw(t, c, "/registry/secrets/a/29"); !strings.HasPrefix(string(v), "k8s:enc:aesgcm:v1:key-a:") {
		t.Fatalf("stored %q", v)
	}
}
