package dns

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/embedded/coredns"
)

// The ConfigMap with the cluster's Corefile, where kubeadm puts it too.
const (
	corefileNamespace = "kube-system"
	corefileName      = "coredns"
	corefileKey       = "Corefile"
)

// firstCorefile bounds how long names wait for the ConfigMap: where it may not be read, the built-in Corefile is served.
const firstCorefile = 2 * time.Second

// Events tells people about an object (record.EventRecorder). It must not block.
type Events interface {
	Eventf(about runtime.Object, kind, reason, format string, args ...any)
}

// corefiles follows the ConfigMap and keeps the server at what it says. Once it is made, it belongs to Run's goroutine.
type corefiles struct {
	config   *Config
	source   coredns.Source
	builtIn  string
	informer cache.SharedIndexInformer
	changed  chan struct{}

	server *coredns.Server
	served string // what the server was last given, or refused
	log    *slog.Logger
}

func newCorefiles(c *Config, source coredns.Source) (*corefiles, error) {
	f := &corefiles{config: c, source: source, builtIn: c.corefile(), changed: make(chan struct{}, 1), log: c.Log.With("configmap", corefileNamespace+"/"+corefileName)}
	f.informer = newCorefileInformer(c.Client.Kubernetes)
	wake := func() {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	_, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() }, UpdateFunc: func(_, _ any) { wake() }, DeleteFunc: func(any) { wake() },
	})
	return f, err
}

// newCorefileInformer watches the one ConfigMap, so that a node needs permission for no other.
func newCorefileInformer(api kubernetes.Interface) cache.SharedIndexInformer {
	return informers.NewSharedInformerFactoryWithOptions(api, 0, informers.WithNamespace(corefileNamespace), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, corefileName).String()
	})).Core().V1().ConfigMaps().Informer()
}

// wanted is the ConfigMap's Corefile; without one, about is nil and the text the built-in one's.
func (f *corefiles) wanted() (text string, about *corev1.ConfigMap, err error) {
	obj, there, _ := f.informer.GetStore().GetByKey(corefileNamespace + "/" + corefileName)
	m, ok := obj.(*corev1.ConfigMap)
	if !there || !ok || m.Data[corefileKey] == "" {
		return f.builtIn, nil, nil
	}
	text, err = coredns.Bind(m.Data[corefileKey], f.config.ClusterDNS)
	return text, m, err
}

// start serves the first Corefile: the ConfigMap's if it is there in time and good, else the built-in one.
func (f *corefiles) start(ctx context.Context) error {
	waiting, stop := context.WithTimeout(ctx, firstCorefile)
	cache.WaitFor(waiting, "", f.informer.HasSyncedChecker())
	stop()
	text, about, err := f.wanted()
	f.served = text
	if err == nil {
		f.server, err = coredns.Start(text, f.source)
	}
	if err != nil && about != nil {
		f.refuse(about, err, "the built-in one is served")
		f.server, err = coredns.Start(f.builtIn, f.source)
	}
	return err
}

// follow serves what the ConfigMap now says. A Corefile that CoreDNS does not take changes nothing.
func (f *corefiles) follow() {
	text, about, err := f.wanted()
	if err == nil && text == f.served {
		return
	}
	f.served = text
	if err == nil {
		err = f.server.Replace(text, f.source)
	}
	switch {
	case err == nil:
		f.log.Info("another Corefile is served", "builtIn", about == nil)
	case about != nil:
		f.refuse(about, err, "the one before is served on")
	default:
		f.log.Error("go back to the built-in Corefile", "err", err)
	}
}

func (f *corefiles) refuse(about *corev1.ConfigMap, err error, instead string) {
	f.log.Error("the Corefile is not good; "+instead, "err", err)
	if f.config.Events != nil {
		f.config.Events.Eventf(about, corev1.EventTypeWarning, "BadCorefile", "%v; %s", err, instead)
	}
}
