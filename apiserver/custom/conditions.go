package custom

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// establish lets what has its names be served.
func establish(d *apiextensionsv1.CustomResourceDefinition) {
	if !condition(d, apiextensionsv1.Established) && condition(d, apiextensionsv1.NamesAccepted) {
		apihelpers.SetCRDCondition(d, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"})
	}
}

// approval says whether a definition in one of the project's own groups has been approved there (KEP-1111). Others get no condition.
func approval(d *apiextensionsv1.CustomResourceDefinition) {
	if !apihelpers.IsProtectedCommunityGroup(d.Spec.Group) {
		return
	}
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Status: apiextensionsv1.ConditionFalse}
	var state apihelpers.APIApprovalState
	state, c.Message = apihelpers.GetAPIApprovalState(d.Annotations)
	switch state {
	case apihelpers.APIApprovalInvalid:
		c.Reason = "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		c.Reason = "MissingAnnotation"
	case apihelpers.APIApprovalBypassed:
		c.Reason = "UnapprovedAnnotation"
	case apihelpers.APIApproved:
		c.Status, c.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	default:
		c.Status, c.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	apihelpers.SetCRDCondition(d, c)
}

// nonStructural says which schemas are not structural. Definitions of today cannot be; what older servers accepted can.
func nonStructural(d *apiextensionsv1.CustomResourceDefinition) {
	c := apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.NonStructuralSchema, Status: apiextensionsv1.ConditionTrue, Reason: "Violations"}
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		internal, err := internalSchema(v)
		var s *structural.Structural
		switch {
		case err == nil && internal == nil:
			continue
		case err == nil:
			s, err = structural.NewStructural(internal)
		}
		if err != nil {
			c.Reason, c.Message = "StructuralError", fmt.Sprintf("failed to check validation schema for version %s: %v", v.Name, err)
			break
		}
		path := field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema")
		if errs := structural.ValidateStructural(path, s); len(errs) > 0 {
			c.Message = errs.ToAggregate().Error()
			break
		}
	}
	if c.Message == "" {
		apihelpers.RemoveCRDCondition(d, apiextensionsv1.NonStructuralSchema)
		return
	}
	apihelpers.SetCRDCondition(d, c)
}
