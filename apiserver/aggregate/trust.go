package aggregate

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
)

// TrustName is the ConfigMap in kube-system by which other API servers learn whom to trust.
const TrustName = "extension-apiserver-authentication"

// Trust is what other API servers must know to recognise the users of this one: who signs client certificates, and which proxy they may
// believe when it names a user in headers. Immutable.
type Trust struct {
	// ClientCA is the authority of users' certificates, PEM. Nil: users have none.
	ClientCA []byte
	// ProxyCA is the authority of front proxies, PEM. Nil: there is no proxy, and the rest is not published.
	ProxyCA []byte
	// AllowedNames are the common names of the proxies' certificates.
	AllowedNames []string
	// The headers by which a proxy names a user.
	UsernameHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// DefaultHeaders fills in the headers that every API server knows.
func (t *Trust) DefaultHeaders() {
	t.UsernameHeaders, t.UIDHeaders, t.GroupHeaders, t.ExtraPrefixes = []string{"X-Remote-User"}, []string{"X-Remote-Uid"}, []string{"X-Remote-Group"}, []string{"X-Remote-Extra-"}
}

// Published is what is published at the moment. Safe for concurrent use.
type Published struct {
	mu      sync.Mutex
	now     *Trust
	changed chan struct{} // closed when now is another
}

// Publish returns a Published of t.
func Publish(t *Trust) *Published { return &Published{now: t, changed: make(chan struct{})} }

// Set publishes t from now on. What other servers publish in the same place, and what was published before, stays there: somebody may still need it.
func (p *Published) Set(t *Trust) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = t
	close(p.changed)
	p.changed = make(chan struct{})
}

// Trust is what is published, until the channel is closed.
func (p *Published) Trust() (*Trust, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}

// merge returns have with what t says besides: several API servers, with configurations of their own, publish in one place. Expired
// authorities go. Pure.
func (t *Trust) merge(have map[string]string, now time.Time) (map[string]string, error) {
	out := map[string]string{}
	authorities := func(key string, own []byte) bool {
		if p := joinPEM(now, []byte(have[key]), own); p != "" {
			out[key] = p
			return true
		}
		return false
	}
	list := func(key string, own []string) error {
		var all []string
		if have[key] != "" {
			if err := json.Unmarshal([]byte(have[key]), &all); err != nil {
				return fmt.Errorf("read %s of ConfigMap %s: %w", key, TrustName, err)
			}
		}
		for _, s := range own {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
		if all == nil {
			all = []string{}
		}
		b, err := json.Marshal(all)
		out[key] = string(b)
		return err
	}
	authorities("client-ca-file", t.ClientCA)
	if !authorities("requestheader-client-ca-file", t.ProxyCA) {
		return out, nil
	}
	for key, own := range map[string][]string{"requestheader-allowed-names": t.AllowedNames, "requestheader-username-headers": t.UsernameHeaders,
		"requestheader-uid-headers": t.UIDHeaders, "requestheader-group-headers": t.GroupHeaders, "requestheader-extra-headers-prefix": t.ExtraPrefixes} {
		if err := list(key, own); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// joinPEM joins bundles of certificates: each once, without those that have expired. What cannot be read is left out.
func joinPEM(now time.Time, bundles ...[]byte) string {
	var out []byte
	seen := map[string]bool{}
	for _, rest := range bundles {
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if block.Type != "CERTIFICATE" || err != nil || seen[string(c.Raw)] || now.After(c.NotAfter.Add(5*time.Minute)) { // clocks differ
				continue
			}
			seen[string(c.Raw)] = true
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return string(out)
}

// KeepTrust publishes what p says until ctx ends, again whenever that or the ConfigMap is changed or taken away. maps lists and watches ConfigMaps.
func KeepTrust(ctx context.Context, p *Published, cs kubernetes.Interface, maps cache.ListerWatcher, log *slog.Logger) {
	informer := cache.NewSharedIndexInformer(onlyNamed{cache.ToListerWatcherWithContext(maps), TrustName}, &corev1.ConfigMap{}, 0, cache.Indexers{})
	loop := client.NewLoop("trust of other API servers", 1, log, func(ctx context.Context, _ string) error {
		obj, ok, err := informer.GetStore().GetByKey(metav1.NamespaceSystem + "/" + TrustName)
		if err != nil {
			return fmt.Errorf("read ConfigMap %s: %w", TrustName, err)
		}
		var have *corev1.ConfigMap
		if ok {
			have = obj.(*corev1.ConfigMap)
		}
		t, _ := p.Trust()
		return t.publish(ctx, cs, have)
	})
	changed := func(obj any) { loop.Add("") }
	// It fails only for informers that have ended.
	_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed})
	var informing sync.WaitGroup
	informing.Go(func() { informer.RunWithContext(ctx) })
	defer informing.Wait()
	informing.Go(func() {
		for {
			_, next := p.Trust()
			select {
			case <-next:
				loop.Add("")
			case <-ctx.Done():
				return
			}
		}
	})
	if cache.WaitFor(ctx, "", informer.HasSyncedChecker()) {
		loop.Add("")
	}
	loop.Run(ctx)
}

// publish writes the ConfigMap, if have, nil when there is none, lacks something.
func (t *Trust) publish(ctx context.Context, cs kubernetes.Interface, have *corev1.ConfigMap) error {
	next := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: TrustName}}
	if have != nil {
		next = have.DeepCopy()
	}
	data, err := t.merge(next.Data, time.Now())
	if err != nil {
		return err
	}
	client := cs.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	switch {
	case have == nil:
		next.Data = data
		_, err = client.Create(ctx, next, metav1.CreateOptions{})
	case apiequality.Semantic.DeepEqual(next.Data, data):
		return nil
	default:
		next.Data = data
		_, err = client.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) { // else the informer will tell
		return fmt.Errorf("publish ConfigMap %s: %w", TrustName, err)
	}
	return nil
}

// onlyNamed lists and watches what has one name in kube-system.
type onlyNamed struct {
	cache.ListerWatcherWithContext
	name string
}

func (o onlyNamed) selected(options metav1.ListOptions) metav1.ListOptions {
	options.FieldSelector = "metadata.name=" + o.name + ",metadata.namespace=" + metav1.NamespaceSystem
	return options
}

// ListWithContext implements cache.ListerWithContext.
func (o onlyNamed) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	return o.ListerWatcherWithContext.ListWithContext(ctx, o.selected(options))
}

// WatchWithContext implements cache.WatcherWithContext.
func (o onlyNamed) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return o.ListerWatcherWithContext.WatchWithContext(ctx, o.selected(options))
}

// List implements cache.Lister.
func (o onlyNamed) List(options metav1.ListOptions) (runtime.Object, error) {
	return o.ListWithContext(context.Background(), options)
}

// Watch implements cache.Watcher.
func (o onlyNamed) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return o.WatchWithContext(context.Background(), options)
}
