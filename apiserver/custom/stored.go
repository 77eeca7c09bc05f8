package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
)

// Stored reads and writes definitions as upstream stores them: as JSON, and in v1beta1, which says once what all versions have in
// common and so is the shorter one (kubernetes/kubernetes#82292). It reads what is stored in v1 too, and protobuf, by Other.
type Stored struct{ Other runtime.Serializer }

const definitionKind = "CustomResourceDefinition"

// Identifier implements runtime.Encoder.
func (Stored) Identifier() runtime.Identifier { return "customresourcedefinitions" }

// Encode implements runtime.Encoder. obj is not changed.
func (Stored) Encode(obj runtime.Object, w io.Writer) error {
	d, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return fmt.Errorf("a %T is no definition", obj)
	}
	internal, old := &apiextensions.CustomResourceDefinition{}, &apiextensionsv1beta1.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d.DeepCopy(), internal, nil); err != nil {
		return fmt.Errorf("convert definition %s: %w", d.Name, err)
	}
	if err := apiextensionsv1beta1.Convert_apiextensions_CustomResourceDefinition_To_v1beta1_CustomResourceDefinition(internal, old, nil); err != nil {
		return fmt.Errorf("convert definition %s to v1beta1: %w", d.Name, err)
	}
	old.SetGroupVersionKind(apiextensionsv1beta1.SchemeGroupVersion.WithKind(definitionKind))
	return json.NewEncoder(w).Encode(old)
}

// Decode implements runtime.Decoder.
func (s Stored) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return s.Other.Decode(data, defaults, into)
	}
	var is struct {
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(data, &is); err != nil {
		return nil, nil, fmt.Errorf("read version of a definition: %w", err)
	}
	if is.APIVersion != apiextensionsv1beta1.SchemeGroupVersion.String() {
		return s.Other.Decode(data, defaults, into)
	}
	old, internal, d := &apiextensionsv1beta1.CustomResourceDefinition{}, &apiextensions.CustomResourceDefinition{}, &apiextensionsv1.CustomResourceDefinition{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, old); err != nil {
		return nil, nil, fmt.Errorf("read definition: %w", err)
	}
	apiextensionsv1beta1.SetObjectDefaults_CustomResourceDefinition(old)
	if err := apiextensionsv1beta1.Convert_v1beta1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(old, internal, nil); err != nil {
		return nil, nil, fmt.Errorf("convert definition %s from v1beta1: %w", old.Name, err)
	}
	if err := apiextensionsv1.Convert_apiextensions_CustomResourceDefinition_To_v1_CustomResourceDefinition(internal, d, nil); err != nil {
		return nil, nil, fmt.Errorf("convert definition %s: %w", old.Name, err)
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(d)
	kind := apiextensionsv1.SchemeGroupVersion.WithKind(definitionKind)
	d.SetGroupVersionKind(kind)
	return d, &kind, nil
}
