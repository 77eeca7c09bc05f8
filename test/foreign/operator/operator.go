package operator

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const (
	finalizer = "green.example/harvest"
	manager   = "gardener"
)

// Gardener keeps a ConfigMap for each garden, and one more, in another place, which no garbage collector finds.
type Gardener struct {
	client.Client
	// Barn is the namespace of what is harvested.
	Barn string
}

// SetUp registers the reconciler and the webhooks of both versions.
func (g *Gardener) SetUp(m ctrl.Manager) error {
	g.Client = m.GetClient()
	hooks := &Gate{}
	return errors.Join(
		ctrl.NewControllerManagedBy(m).For(&Garden{}).Owns(&corev1.ConfigMap{}).Complete(g),
		ctrl.NewWebhookManagedBy(m, &Garden{}).WithDefaulter(hooks).WithValidator(hooks).Complete())
}

// Reconcile implements reconcile.Reconciler.
func (g *Gardener) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	garden := &Garden{}
	if err := g.Get(ctx, r.NamespacedName, garden); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	harvest := r.Namespace + "-" + r.Name
	if garden.DeletionTimestamp != nil {
		if !controllerutil.ContainsFinalizer(garden, finalizer) {
			return ctrl.Result{}, nil
		}
		err := g.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: harvest, Namespace: g.Barn}})
		if err := client.IgnoreNotFound(err); err != nil {
			return ctrl.Result{}, err
		}
		controllerutil.RemoveFinalizer(garden, finalizer)
		return ctrl.Result{}, client.IgnoreNotFound(g.Update(ctx, garden))
	}
	if controllerutil.AddFinalizer(garden, finalizer) {
		if err := g.Update(ctx, garden); err != nil {
			return again(err)
		}
	}
	own := applycorev1.ConfigMap("garden-"+r.Name, r.Namespace).
		WithLabels(map[string]string{"garden": r.Name}).
		WithOwnerReferences(applymetav1.OwnerReference().WithAPIVersion(group + "/v1").WithKind("Garden").WithName(garden.Name).WithUID(garden.UID).WithController(true).WithBlockOwnerDeletion(true)).
		WithData(map[string]string{"beds": strconv.Itoa(garden.Spec.Beds), "area": strconv.Itoa(garden.Spec.Width * garden.Spec.Height)})
	if err := g.Apply(ctx, own, client.FieldOwner(manager), client.ForceOwnership); err != nil {
		return ctrl.Result{}, fmt.Errorf("apply %s: %w", *own.Name, err)
	}
	barn := applycorev1.ConfigMap(harvest, g.Barn).WithData(map[string]string{"of": string(garden.UID)})
	if err := g.Apply(ctx, barn, client.FieldOwner(manager), client.ForceOwnership); err != nil {
		return ctrl.Result{}, fmt.Errorf("apply %s: %w", harvest, err)
	}
	before := clone(garden)
	garden.Status.Beds, garden.Status.ObservedGeneration, garden.Status.Selector = garden.Spec.Beds, garden.Generation, "garden="+garden.Name
	meta.SetStatusCondition(&garden.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Planted", Message: "all beds are there", ObservedGeneration: garden.Generation})
	return again(g.Status().Patch(ctx, garden, client.MergeFrom(before)))
}

// again looks once more at what somebody else has changed meanwhile, which is no error.
func again(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: 1}, nil
	}
	return ctrl.Result{}, err
}

// Gate is the webhooks.
type Gate struct{}

// Default implements admission.Defaulter.
func (*Gate) Default(ctx context.Context, g *Garden) error {
	if g.Spec.Owner == "" {
		if r, err := admission.RequestFromContext(ctx); err == nil {
			g.Spec.Owner = r.UserInfo.Username
		}
	}
	return nil
}

// ValidateCreate implements admission.Validator.
func (*Gate) ValidateCreate(_ context.Context, g *Garden) (admission.Warnings, error) {
	if g.Spec.Plant == "hogweed" {
		return nil, errors.New("hogweed is poisonous")
	}
	if g.Spec.Beds > 10 {
		return admission.Warnings{"that is a lot of work"}, nil
	}
	return nil, nil
}

// ValidateUpdate implements admission.Validator.
func (v *Gate) ValidateUpdate(ctx context.Context, old, g *Garden) (admission.Warnings, error) {
	if g.Spec.Width < old.Spec.Width {
		return nil, fmt.Errorf("a garden cannot shrink from %d to %d", old.Spec.Width, g.Spec.Width)
	}
	return v.ValidateCreate(ctx, g)
}

// ValidateDelete implements admission.Validator.
func (*Gate) ValidateDelete(_ context.Context, g *Garden) (admission.Warnings, error) {
	if g.Labels["keep"] == "true" {
		return nil, errors.New("this one is kept")
	}
	return nil, nil
}
