package kinds

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A kind that is stored in an older version of itself comes back as it was written.
func TestStoredAsOlder(t *testing.T) {
	k := PodCertificateRequests()
	written := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "r", Labels: map[string]string{"a": "b"}},
		Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.com/x", PodName: "p", MaxExpirationSeconds: new(int32(86400)), StubPKCS10Request: []byte("x")}}
	written.SetGroupVersionKind(k.GroupVersionKind)
	stored, err := k.Hub.ToHub(written)
	if err != nil {
		t.Fatal(err)
	}
	if old, ok := stored.(*certificatesv1beta1.PodCertificateRequest); !ok || old.Spec.PodName != "p" || old.APIVersion != "certificates.k8s.io/v1beta1" {
		t.Errorf("stored %+v", stored)
	}
	read, err := k.Hub.FromHub(stored)
	if err != nil || !apiequality.Semantic.DeepEqual(read, written) {
		t.Errorf("read %+v, %v", read, err)
	}
}

func TestDeviceTaintRules(t *testing.T) {
	k := DeviceTaintRules()
	rule := func(change func(*resourcev1.DeviceTaintRuleSpec)) *resourcev1.DeviceTaintRule {
		r := &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", ResourceVersion: "1"}, Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: new("example.com"), Pool: new("a/b"), Device: new("gpu-1")},
			Taint:          resourcev1.DeviceTaint{Key: "example.com/bad", Value: "v", Effect: resourcev1.DeviceTaintEffectNoSchedule}}}
		if change != nil {
			change(&r.Spec)
		}
		return r
	}
	type spec = resourcev1.DeviceTaintRuleSpec
	for name, c := range map[string]struct {
		change func(*spec)
		wrong  string
	}{
		"good":        {nil, ""},
		"no selector": {func(s *spec) { s.DeviceSelector = nil }, ""},
		"no key":      {func(s *spec) { s.Taint.Key = "" }, "spec.taint.key"},
		"bad value":   {func(s *spec) { s.Taint.Value = "a b" }, "spec.taint.value"},
		"no effect":   {func(s *spec) { s.Taint.Effect = "" }, "spec.taint.effect"},
		"node effect": {func(s *spec) { s.Taint.Effect = "PreferNoSchedule" }, "spec.taint.effect"},
		"bad driver":  {func(s *spec) { s.DeviceSelector.Driver = new("") }, "spec.deviceSelector.driver"},
		"bad pool":    {func(s *spec) { s.DeviceSelector.Pool = new("A//") }, "spec.deviceSelector.pool"},
		"bad device":  {func(s *spec) { s.DeviceSelector.Device = new("A") }, "spec.deviceSelector.device"},
	} {
		errs := k.Validate(t.Context(), rule(c.change))
		if (c.wrong == "") != (len(errs) == 0) || len(errs) > 0 && errs[0].Field != c.wrong {
			t.Errorf("%s: %v, want %q", name, errs, c.wrong)
		}
	}

	made := rule(nil)
	k.Default(made)
	k.PrepareForCreate(t.Context(), made)
	if made.Generation != 1 || made.Spec.Taint.TimeAdded == nil {
		t.Errorf("made %+v", made)
	}
	made.Spec.Taint.TimeAdded = &metav1.Time{Time: time.Unix(1, 0)}
	valued, affected := made.DeepCopy(), made.DeepCopy()
	valued.Spec.Taint.Value = "w"
	affected.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	k.PrepareForUpdate(t.Context(), valued, made)
	k.PrepareForUpdate(t.Context(), affected, made)
	if valued.Generation != 2 || !valued.Spec.Taint.TimeAdded.Equal(made.Spec.Taint.TimeAdded) {
		t.Errorf("another value: %+v", valued)
	}
	if affected.Generation != 2 || affected.Spec.Taint.TimeAdded.Equal(made.Spec.Taint.TimeAdded) {
		t.Errorf("another effect is as old as the former: %+v", affected)
	}
	unknown := rule(func(s *spec) { s.Taint.Effect = "Later" })
	if errs := k.ValidateUpdate(t.Context(), unknown, unknown); len(errs) > 0 {
		t.Errorf("an effect that is stored already: %v", errs)
	}
	full := rule(nil)
	for i := range resourcev1.DeviceTaintRuleStatusMaxConditions + 1 {
		full.Status.Conditions = append(full.Status.Conditions, metav1.Condition{Type: string(rune('A' + i)), Status: metav1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.Now()})
	}
	if errs := k.Subresources["status"].ValidateUpdate(t.Context(), full, rule(nil)); len(errs) != 1 || errs[0].Field != "status.conditions" {
		t.Errorf("too many conditions: %v", errs)
	}
}
