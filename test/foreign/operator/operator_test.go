package operator

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/yaml"

	"wherry.dev/wherry/test/foreign/plane"
)

func TestMain(m *testing.M) { plane.Main(m) }

//go:embed testdata/gardens.yaml
var definition []byte

const hookPort = 9443

// certificate writes tls.crt and tls.key for plane.Address into dir and returns what clients trust.
func certificate(t *testing.T, dir string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gardener"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.ParseIP(plane.Address)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "tls.crt"), public, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		t.Fatal(err)
	}
	return public
}

// world is an operator at work, and a client beside it.
type world struct {
	t *testing.T
	client.Client
	mu       sync.Mutex
	log      bytes.Buffer // guarded by mu
	warnings []string     // guarded by mu
}

func (w *world) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, text)
}

func (w *world) warned() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.warnings, "; ")
	w.warnings = nil
	return text
}

// start runs the operator against p until the test ends.
func start(t *testing.T, p *plane.Plane) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t}
	config := rest.CopyConfig(p.Config)
	config.WarningHandler = w
	var err error
	if w.Client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	dir := plane.Dir(t)
	w.register(certificate(t, dir))

	ctrl.SetLogger(funcr.New(func(prefix, args string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		fmt.Fprintln(&w.log, prefix, args)
	}, funcr.Options{}))
	m, err := ctrl.NewManager(p.Config, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, LeaderElection: true, LeaderElectionID: "gardener.green.example",
		LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true, WebhookServer: webhook.NewServer(webhook.Options{Host: plane.Address, Port: hookPort, CertDir: dir})})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Gardener{Barn: "barn"}).SetUp(m); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the operator ended: %v", err)
		}
		if t.Failed() {
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Logf("the operator's log:\n%s", w.log.String())
		}
	})
	plane.Eventually(t, "the webhooks", 30*time.Second, func() error { return m.GetWebhookServer().StartedChecker()(nil) }, p.Processes...)
	return w
}

// register makes the definition, with its conversion, and the admission webhooks.
func (w *world) register(ca []byte) {
	w.t.Helper()
	url := func(path string) *string {
		text := fmt.Sprintf("https://%s:%d%s", plane.Address, hookPort, path)
		return &text
	}
	d := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(definition, d); err != nil {
		w.t.Fatal(err)
	}
	d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ConversionReviewVersions: []string{"v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: url("/convert"), CABundle: ca}}}
	none := registrationv1.SideEffectClassNone
	rules := []registrationv1.RuleWithOperations{{Operations: []registrationv1.OperationType{registrationv1.Create, registrationv1.Update, registrationv1.Delete},
		Rule: registrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{"gardens"}}}}
	mutating := &registrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "gardens"}, Webhooks: []registrationv1.MutatingWebhook{{Name: "default.green.example",
		ClientConfig: registrationv1.WebhookClientConfig{URL: url("/mutate-green-example-v1-garden"), CABundle: ca}, Rules: rules, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	validating := &registrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "gardens"}, Webhooks: []registrationv1.ValidatingWebhook{{Name: "validate.green.example",
		ClientConfig: registrationv1.WebhookClientConfig{URL: url("/validate-green-example-v1-garden"), CABundle: ca}, Rules: rules, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	for _, o := range []client.Object{d, mutating, validating, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "barn"}}} {
		if err := w.Create(w.t.Context(), o); err != nil {
			w.t.Fatalf("%T: %v", o, err)
		}
	}
	plane.Eventually(w.t, "the definition to be established", 20*time.Second, func() error {
		if err := w.Get(w.t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %v", d.Status.Conditions)
	})
}

func (w *world) eventually(what string, look func() error) {
	w.t.Helper()
	plane.Eventually(w.t, what, 30*time.Second, look)
}

// refused checks that err says want.
func (w *world) refused(what string, err error, want string) {
	w.t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		w.t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func garden(name string, width, height int) *Garden {
	return &Garden{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: GardenSpec{Width: width, Height: height, Beds: 2}}
}

// TestOperator is an operator's life: both versions, every webhook, status, scale, apply, owners, finalizers, and its definition's end.
func TestOperator(t *testing.T) {
	plane.Need(t)
	p := plane.StartWherry(t, plane.Port, "--disable", "scheduler,controllers")
	p.StartManager() // collects garbage
	w := start(t, p)
	ctx := t.Context()

	// Made in v1: defaulted by the webhook, reconciled, its condition set.
	a := garden("a", 3, 4)
	if err := w.Create(ctx, a); err != nil {
		t.Fatal(err)
	}
	if a.Spec.Owner == "" {
		t.Error("the webhook's default is not there")
	}
	key := client.ObjectKeyFromObject(a)
	ready := func() error {
		if err := w.Get(ctx, key, a); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(a.Status.Conditions, "Ready") || a.Status.ObservedGeneration != a.Generation {
			return fmt.Errorf("status %+v at generation %d", a.Status, a.Generation)
		}
		return nil
	}
	w.eventually("the garden to be ready", ready)
	own := &corev1.ConfigMap{}
	ownKey := client.ObjectKey{Namespace: "default", Name: "garden-a"}
	if err := w.Get(ctx, ownKey, own); err != nil || own.Data["area"] != "12" || !metav1.IsControlledBy(own, a) {
		t.Errorf("what the garden owns: %v, %v", own, err)
	}
	if a.Generation != 1 || len(a.Finalizers) != 1 {
		t.Errorf("generation %d, finalizers %v", a.Generation, a.Finalizers)
	}

	// Read and written in v1alpha1, which warns.
	old := &OldGarden{}
	w.warned()
	if err := w.Get(ctx, key, old); err != nil || old.Spec.Size != "3x4" || len(old.Status.Conditions) != 1 {
		t.Fatalf("in the old version: %+v, %v", old, err)
	}
	if got := w.warned(); got != "green.example/v1alpha1 Garden is deprecated; use green.example/v1 Garden" {
		t.Errorf("warned: %q", got)
	}
	patch := client.MergeFrom(clone(old))
	old.Spec.Size, old.Spec.Beds = "5x6", 3
	if err := w.Patch(ctx, old, patch); err != nil {
		t.Fatal(err)
	}
	w.eventually("the old version's change to be seen", func() error {
		if err := ready(); err != nil {
			return err
		}
		if a.Spec.Width != 5 || a.Status.Beds != 3 || a.Generation != 2 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	b := &OldGarden{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}, Spec: OldGardenSpec{Size: "2x2", Beds: 1}}
	if err := w.Create(ctx, b); err != nil {
		t.Fatal(err)
	}
	if b.Spec.Owner == "" { // the webhook is registered for v1 only: matchPolicy Equivalent
		t.Error("a webhook does not see what comes in another version")
	}
	list := &GardenList{}
	if err := w.List(ctx, list, client.InNamespace("default")); err != nil || len(list.Items) != 2 || list.Items[1].Spec.Width != 2 {
		t.Errorf("listed: %+v, %v", list.Items, err)
	}

	// Refused: by CEL, by the schema, by the webhook, in either version.
	w.refused("too large", w.Create(ctx, garden("c", 100, 100)), "a garden is at most 1000 square feet")
	w.refused("no width", w.Create(ctx, garden("c", 0, 1)), "spec.width: Invalid value: 0: spec.width in body should be greater than or equal to 1")
	poison := garden("c", 1, 1)
	poison.Spec.Plant = "hogweed"
	w.refused("poison", w.Create(ctx, poison), `admission webhook "validate.green.example" denied the request: hogweed is poisonous`)
	w.refused("a size that is none", w.Create(ctx, &OldGarden{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default"}, Spec: OldGardenSpec{Size: "big"}}),
		`conversion webhook for green.example/v1alpha1, Kind=Garden failed: read size "big": expected integer`)
	w.refused("shrunk", w.Patch(ctx, clone(a), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"width":1}}`))), "a garden cannot shrink from 5 to 1")
	planted := garden("planted", 1, 1)
	planted.Spec.Plant, planted.Spec.Beds = "rose", 11
	if err := w.Create(ctx, planted); err != nil {
		t.Fatal(err)
	}
	if got := w.warned(); !strings.Contains(got, "that is a lot of work") {
		t.Errorf("warned: %q", got)
	}
	w.refused("replanted", w.Patch(ctx, planted, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"plant":"tulip"}}`))), "what has been planted stays")
	if err := w.List(ctx, list, client.MatchingFields{"spec.plant": "rose"}); err != nil || len(list.Items) != 1 {
		t.Errorf("selected by plant: %+v, %v", list.Items, err)
	}

	// Scaled, as autoscalers do.
	scale := &autoscalingv1.Scale{}
	if err := w.SubResource("scale").Get(ctx, a, scale); err != nil || scale.Spec.Replicas != 3 || scale.Status.Selector != "garden=a" {
		t.Errorf("scale: %+v, %v", scale, err)
	}
	scale.Spec.Replicas = 5
	if err := w.SubResource("scale").Update(ctx, a, client.WithSubResourceBody(scale)); err != nil {
		t.Fatal(err)
	}
	w.eventually("the new scale to be seen", func() error {
		if err := ready(); err != nil {
			return err
		}
		if a.Status.Beds != 5 {
			return fmt.Errorf("%d beds", a.Status.Beds)
		}
		return nil
	})

	// The webhook may refuse a deletion; the finalizer holds what it lets go, and owned objects are collected.
	a.Labels = map[string]string{"keep": "true"}
	if err := w.Update(ctx, a); err != nil {
		t.Fatal(err)
	}
	w.refused("kept", w.Delete(ctx, a), "this one is kept")
	if err := w.Patch(ctx, a, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`))); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(ctx, a, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	for what, o := range map[string]client.Object{"the garden": &Garden{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}, "what it owned": own,
		"what it had elsewhere": &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "default-a", Namespace: "barn"}}} {
		w.eventually(what+" to go", func() error {
			err := w.Get(ctx, client.ObjectKeyFromObject(o), o)
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("%v: %w", o.GetFinalizers(), errorOr(err))
		})
	}

	// What is owned and changed is put right again; one in the foreground goes after what it owns.
	if err := w.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "garden-b", Namespace: "default"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("what was deleted to be made again", func() error {
		return w.Get(ctx, client.ObjectKey{Namespace: "default", Name: "garden-b"}, &corev1.ConfigMap{})
	})
	if err := w.Delete(ctx, &Garden{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}}, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	w.eventually("a garden to go in the foreground", func() error {
		for _, o := range []client.Object{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "garden-b", Namespace: "default"}}, &Garden{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default"}}} {
			if err := w.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is there: %v", o, err)
			}
		}
		return nil
	})

	// Its definition goes with all gardens, while the operator takes its finalizers away.
	d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gardens.green.example"}}
	if err := w.Delete(ctx, d); err != nil {
		t.Fatal(err)
	}
	w.eventually("the definition to go", func() error {
		err := w.Get(ctx, client.ObjectKeyFromObject(d), d)
		if apierrors.IsNotFound(err) {
			return nil
		}
		b, _ := json.Marshal(d.Status.Conditions)
		return fmt.Errorf("%s: %w", b, errorOr(err))
	})
}

func errorOr(err error) error {
	if err == nil {
		return fmt.Errorf("it is still there")
	}
	return err
}
