// Package operator is an operator as people write them with controller-runtime: a kind in two versions with conversion, defaulting and validating
// webhooks, a reconciler that applies what it owns, and finalizers. Its test runs it against Wherry.
package operator

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
)

const group = "green.example"

// Garden is green.example/v1, the stored version.
type Garden struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              GardenSpec   `json:"spec"`
	Status            GardenStatus `json:"status,omitempty"`
}

// GardenSpec is what is wanted.
type GardenSpec struct {
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Beds   int    `json:"beds"`
	Plant  string `json:"plant,omitempty"`
	Owner  string `json:"owner,omitempty"`
}

// GardenStatus is what there is.
type GardenStatus struct {
	Beds               int                `json:"beds,omitempty"`
	Selector           string             `json:"selector,omitempty"`
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// GardenList is a list of them.
type GardenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Garden `json:"items"`
}

// OldGarden is green.example/v1alpha1, which says the size in one word.
type OldGarden struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              OldGardenSpec `json:"spec"`
	Status            GardenStatus  `json:"status,omitempty"`
}

// OldGardenSpec is what is wanted.
type OldGardenSpec struct {
	Size  string `json:"size,omitempty"`
	Beds  int    `json:"beds"`
	Plant string `json:"plant,omitempty"`
	Owner string `json:"owner,omitempty"`
}

// OldGardenList is a list of them.
type OldGardenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []OldGarden `json:"items"`
}

// Hub implements conversion.Hub.
func (*Garden) Hub() {}

// ConvertTo implements conversion.Convertible.
func (g *OldGarden) ConvertTo(hub conversion.Hub) error {
	to := hub.(*Garden)
	to.ObjectMeta, to.Status = g.ObjectMeta, g.Status
	to.Spec = GardenSpec{Beds: g.Spec.Beds, Plant: g.Spec.Plant, Owner: g.Spec.Owner}
	if g.Spec.Size == "" {
		return nil
	}
	if _, err := fmt.Sscanf(g.Spec.Size, "%dx%d", &to.Spec.Width, &to.Spec.Height); err != nil {
		return fmt.Errorf("read size %q: %w", g.Spec.Size, err)
	}
	return nil
}

// ConvertFrom implements conversion.Convertible.
func (g *OldGarden) ConvertFrom(hub conversion.Hub) error {
	from := hub.(*Garden)
	g.ObjectMeta, g.Status = from.ObjectMeta, from.Status
	g.Spec = OldGardenSpec{Size: fmt.Sprintf("%dx%d", from.Spec.Width, from.Spec.Height), Beds: from.Spec.Beds, Plant: from.Spec.Plant, Owner: from.Spec.Owner}
	return nil
}

func clone[T any](in *T) *T {
	b, err := json.Marshal(in)
	out := new(T)
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		panic(err) // they are made of nothing that JSON cannot hold
	}
	return out
}

// DeepCopyObject implements runtime.Object.
func (g *Garden) DeepCopyObject() runtime.Object { return clone(g) }

// DeepCopyObject implements runtime.Object.
func (l *GardenList) DeepCopyObject() runtime.Object { return clone(l) }

// DeepCopyObject implements runtime.Object.
func (g *OldGarden) DeepCopyObject() runtime.Object { return clone(g) }

// DeepCopyObject implements runtime.Object.
func (l *OldGardenList) DeepCopyObject() runtime.Object { return clone(l) }

// AddToScheme makes both versions known.
func AddToScheme(s *runtime.Scheme) error {
	v1, old := schema.GroupVersion{Group: group, Version: "v1"}, schema.GroupVersion{Group: group, Version: "v1alpha1"}
	s.AddKnownTypes(v1, &Garden{}, &GardenList{})
	s.AddKnownTypeWithName(old.WithKind("Garden"), &OldGarden{})
	s.AddKnownTypeWithName(old.WithKind("GardenList"), &OldGardenList{})
	metav1.AddToGroupVersion(s, v1)
	metav1.AddToGroupVersion(s, old)
	return nil
}
