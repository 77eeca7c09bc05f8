// Package encryption encrypts what the store keeps, as an EncryptionConfiguration (apiserver.config.k8s.io/v1) says: providers
// secretbox, aesgcm, aescbc, kms and identity, several keys each, resources by name or wildcard. Reading and checking the
// file and the ciphers are upstream's, so that values, prefixes and messages are too. Only cluster and tests import it.
package encryption

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

// Config says where the configuration is.
type Config struct {
	// File is an EncryptionConfiguration, YAML or JSON.
	File string
	// Reload lets Run follow the file, upstream's --encryption-provider-config-automatic-reload.
	Reload bool
	// ServerID is the identity of this API server, for metrics of KMS plugins.
	ServerID string
	Log      *slog.Logger // nil: slog.Default()
}

// Encryption is a configuration in force. Safe for concurrent use.
type Encryption struct {
	c       Config
	ctx     context.Context // ends with Close: the life of connections to KMS plugins
	cancel  context.CancelFunc
	current atomic.Pointer[generation]
	waiting sync.WaitGroup // for requests that still use an older generation

	mu      sync.Mutex
	changed []func() // called after each reload; guarded by mu
}

// generation is one reading of the file.
type generation struct {
	*encryptionconfig.EncryptionConfiguration
	close context.CancelFunc // of its connections to KMS plugins
}

// Open reads the file. An error says what is wrong in it, in upstream's words.
func Open(c Config) (*Encryption, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	e := &Encryption{c: c}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	g, err := e.load()
	if err != nil {
		e.cancel()
		return nil, fmt.Errorf("encryption configuration %s: %w", c.File, err)
	}
	e.current.Store(g)
	return e, nil
}

func (e *Encryption) load() (*generation, error) {
	ctx, cancel := context.WithCancel(e.ctx)
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, e.c.File, e.c.Reload, e.c.ServerID)
	if err != nil {
		cancel()
		return nil, err
	}
	return &generation{config, cancel}, nil
}

// Close ends connections to KMS plugins. Nothing may be read or written after it.
func (e *Encryption) Close() {
	e.cancel()
	e.waiting.Wait()
}

// OnChange has f called after each reload that took effect.
func (e *Encryption) OnChange(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.changed = append(e.changed, f)
}

// Check says whether the KMS plugins answer, if there are any.
func (e *Encryption) Check(ctx context.Context) error { return e.current.Load().check(ctx) }

func (g *generation) check(ctx context.Context) error {
	for _, c := range g.HealthChecks {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz/"+c.Name(), nil)
		if err != nil {
			return err
		}
		if err := c.Check(r); err != nil {
			return err
		}
	}
	return nil
}

const (
	// poll finds what the notification of a change misses, such as a file on a network's file system.
	poll = time.Minute
	// settle is how long the directory must be quiet after a change, so that a file that is being written is read once, whole.
	settle = 100 * time.Millisecond
	// failedAgain is when a file that could not be taken over is tried again though it did not change: a KMS plugin may have come up.
	failedAgain = 5 * time.Second
	// leastHealthWait is how long KMS plugins of a new configuration may take to answer before it is given up.
	leastHealthWait = 10 * time.Second
	healthAgain     = 100 * time.Millisecond
)

// Run follows the file until ctx ends. Without Reload it only waits. A file that is wrong, or whose KMS plugins do not answer,
// changes nothing; the log says why.
func (e *Encryption) Run(ctx context.Context) error {
	if !e.c.Reload {
		<-ctx.Done()
		return nil
	}
	// The directory is watched and not the file: a configuration is mostly replaced, by a rename or by a Secret's volume.
	var events chan fsnotify.Event
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		if err = watcher.Add(filepath.Dir(e.c.File)); err == nil {
			events = watcher.Events
		}
	}
	if err != nil {
		e.c.Log.Warn("changes of the encryption configuration are only seen once a minute", "file", e.c.File, "error", err)
	}
	next := time.NewTimer(poll)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			next.Reset(settle)
			continue
		case <-next.C:
		}
		next.Reset(poll)
		if err := e.reload(ctx); err != nil && ctx.Err() == nil {
			e.c.Log.Error("the changed encryption configuration is not taken over; the one before stays in force", "file", e.c.File, "error", err)
			next.Reset(failedAgain)
		}
	}
}

// reload takes the file over if it has changed.
func (e *Encryption) reload(ctx context.Context) error {
	old := e.current.Load()
	hash, err := encryptionconfig.GetEncryptionConfigHash(e.c.File)
	if err != nil || hash == old.EncryptionFileContentHash {
		return err
	}
	g, err := e.load()
	if err != nil {
		return err
	}
	if err := g.healthy(ctx); err != nil {
		g.close()
		return fmt.Errorf("its KMS plugins do not answer: %w", err)
	}
	e.current.Store(g)
	e.c.Log.Info("took over a changed encryption configuration", "file", e.c.File)
	e.waiting.Go(func() { // until nobody is in the midst of using the old one
		select {
		case <-time.After(old.KMSCloseGracePeriod):
		case <-e.ctx.Done():
		}
		old.close()
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.changed {
		f()
	}
	return nil
}

// healthy waits for the generation's KMS plugins.
func (g *generation) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(g.KMSCloseGracePeriod, leastHealthWait))
	defer cancel()
	for {
		err := g.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(healthAgain):
		}
	}
}

// Transformer encrypts and decrypts one resource, always by the configuration in force.
func (e *Encryption) Transformer(resource schema.GroupResource) value.Transformer {
	return &transformer{of: e, resource: resource}
}

// transformer looks a resource up in the configuration once for each generation.
type transformer struct {
	of       *Encryption
	resource schema.GroupResource
	found    atomic.Pointer[found]
}

// found is a transformer and the generation it comes from. Immutable.
type found struct {
	*generation
	value.Transformer
}

func (t *transformer) inForce() value.Transformer {
	g := t.of.current.Load()
	if f := t.found.Load(); f != nil && f.generation == g {
		return f.Transformer
	}
	f := &found{g, encryptionconfig.StaticTransformers(g.Transformers).TransformerForResource(t.resource)}
	t.found.Store(f)
	return f.Transformer
}

// Covers says whether the configuration in force names the resource, so that values in an older form may be about.
func (t *transformer) Covers() bool {
	all := t.of.current.Load().Transformers
	for _, r := range []schema.GroupResource{t.resource, {Group: t.resource.Group, Resource: "*"}, {Group: "*", Resource: "*"}} {
		if all[r] != nil {
			return true
		}
	}
	return false
}

// TransformFromStorage implements value.Transformer.
func (t *transformer) TransformFromStorage(ctx context.Context, data []byte, key value.Context) ([]byte, bool, error) {
	return t.inForce().TransformFromStorage(ctx, data, key)
}

// TransformToStorage implements value.Transformer.
func (t *transformer) TransformToStorage(ctx context.Context, data []byte, key value.Context) ([]byte, error) {
	return t.inForce().TransformToStorage(ctx, data, key)
}
