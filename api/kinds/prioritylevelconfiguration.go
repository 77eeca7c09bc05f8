package kinds

import (
	"fmt"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	flowcontrolv1beta3 "k8s.io/api/flowcontrol/v1beta3"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// SystemPriorityLevels returns the priority levels that the server makes: those it cannot do without, and those that
// upstream suggests. The caller owns them.
func SystemPriorityLevels() (mandatory, suggested []*flowcontrolv1.PriorityLevelConfiguration) {
	return copies(bootstrap.MandatoryPriorityLevelConfigurations), copies(bootstrap.SuggestedPriorityLevelConfigurations)
}

// PriorityLevelConfigurations is flowcontrol.apiserver.k8s.io/v1 prioritylevelconfigurations (KEP-1040).
func PriorityLevelConfigurations() *Kind {
	return &Kind{
		GroupVersionKind: flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"),
		Plural:           "prioritylevelconfigurations",
		Singular:         "prioritylevelconfiguration",
		Verbs:            all,
		New:              func() runtime.Object { return new(flowcontrolv1.PriorityLevelConfiguration) },
		NewList:          func() runtime.Object { return new(flowcontrolv1.PriorityLevelConfigurationList) },
		StoragePrefix:    "prioritylevelconfigurations",
		Default:          defaulting(defaultPriorityLevel),
		PrepareForCreate: onCreate(func(p *flowcontrolv1.PriorityLevelConfiguration) {
			p.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
			p.Generation = 1
		}),
		PrepareForUpdate: onUpdate(func(p, old *flowcontrolv1.PriorityLevelConfiguration) {
			if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
				p.Generation = old.Generation + 1
			}
			p.Status = old.Status
		}),
		Validate: checking(validatePriorityLevel),
		ValidateUpdate: checkingUpdate(func(p, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return append(ValidateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta), validatePriorityLevel(p)...)
		}),
		ValidateName: NameIsDNSSubdomain,
		Subresources: map[string]*Subresource{
			"status": {
				Verbs:  viewVerbs,
				Resets: []string{"metadata"},
				PrepareForUpdate: onUpdate(func(p, old *flowcontrolv1.PriorityLevelConfiguration) {
					p.ObjectMeta = metaForStatus(&p.ObjectMeta, &old.ObjectMeta)
					p.Spec = old.Spec
				}),
				ValidateUpdate: checkingUpdate(func(p, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
					return append(ValidateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta), validatePriorityLevelStatus(&p.Status)...)
				}),
			},
		},
		FieldLabels:      metaFieldLabels,
		SelectableFields: clusterMetaFields,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
			column("NominalConcurrencyShares", "string", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
			column("Queues", "string", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["queues"]),
			column("HandSize", "string", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["handSize"]),
			column("QueueLengthLimit", "string", flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()["queueLengthLimit"]),
			ageColumn(),
		},
		Row: row(func(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
			var shares, queues, hand, limit any = "<none>", "<none>", "<none>", "<none>"
			if l := p.Spec.Limited; l != nil {
				if shares = int64(0); l.NominalConcurrencyShares != nil {
					shares = int64(*l.NominalConcurrencyShares)
				}
				if q := l.LimitResponse.Queuing; q != nil {
					queues, hand, limit = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
				}
			}
			return []any{p.Name, string(p.Spec.Type), shares, queues, hand, limit, age(p.CreationTimestamp, now)}
		}),
		AllowUnconditionalUpdate: true,
	}
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	set := func(v **int32, value int32) {
		if *v == nil {
			*v = &value
		}
	}
	if l := p.Spec.Limited; l != nil {
		set(&l.NominalConcurrencyShares, 30)
		set(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			setIfZero(&q.HandSize, 8)
			setIfZero(&q.Queues, 64)
			setIfZero(&q.QueueLengthLimit, 50)
		}
	}
	if e := p.Spec.Exempt; e != nil {
		set(&e.NominalConcurrencyShares, 0)
		set(&e.LendablePercent, 0)
	}
}

// maxFlowQueues bounds the queues of a level.
const maxFlowQueues = 10_000_000

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	f := faults{list: ValidateMeta(&p.ObjectMeta, false, NameIsDNSSubdomain)}
	if _, ok := p.Annotations[flowcontrolv1beta3.PriorityLevelPreserveZeroConcurrencySharesKey]; ok {
		f.forbidden((&where{name: "metadata"}).field("annotations"), fmt.Sprintf("annotation '%s' is forbidden", flowcontrolv1beta3.PriorityLevelPreserveZeroConcurrencySharesKey))
	}
	w, s := &where{name: "spec"}, &p.Spec
	if (p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		f.invalid(w.field("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'")
	}
	if s.Limited != nil && s.Type != flowcontrolv1.PriorityLevelEnablementLimited {
		f.forbidden(w.field("limited"), "")
		f.needs(w.field("limited").field("limitResponse").field("type"), string(s.Limited.LimitResponse.Type))
	}
	if s.Exempt != nil && s.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		f.forbidden(w.field("exempt"), "")
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if e := s.Exempt; e != nil {
			at := w.field("exempt")
			if n := e.NominalConcurrencyShares; n != nil && *n < 0 {
				f.invalid(at.field("nominalConcurrencyShares"), *n, "must be a non-negative integer")
			}
			f.percent(at.field("lendablePercent"), e.LendablePercent)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Limited == nil {
			f.required(w.field("limited"), "")
		} else {
			f.limitedLevel(w.field("limited"), s.Limited)
		}
	default:
		oneOf(&f, w.field("type"), s.Type, []flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited})
	}
	for _, m := range bootstrap.MandatoryPriorityLevelConfigurations {
		if m.Name != p.Name {
			continue
		}
		have, sentence := *s, "spec of '%s' must equal the fixed value"
		if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			have.Exempt, sentence = m.Spec.Exempt, "spec of '%s' except the 'spec.exempt' field must equal the fixed value"
		}
		if !apiequality.Semantic.DeepEqual(have, m.Spec) {
			f.invalid(w, *s, fmt.Sprintf(sentence, p.Name))
		}
	}
	f.add(validatePriorityLevelStatus(&p.Status))
	return f.list
}

func validatePriorityLevelStatus(s *flowcontrolv1.PriorityLevelConfigurationStatus) field.ErrorList {
	types := make([]string, len(s.Conditions))
	for i := range s.Conditions {
		types[i] = string(s.Conditions[i].Type)
	}
	return validateConditionTypes(types)
}

func (f *faults) percent(w *where, n *int32) {
	if n != nil && (*n < 0 || *n > 100) {
		f.invalid(w, *n, "must be between 0 and 100, inclusive")
	}
}

func (f *faults) limitedLevel(w *where, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	if n := l.NominalConcurrencyShares; n != nil && *n < 0 {
		f.invalid(w.field("nominalConcurrencyShares"), *n, "must be a non-negative integer")
	}
	at := w.field("limitResponse")
	queuing := at.field("queuing")
	r := &l.LimitResponse
	switch r.Type {
	case flowcontrolv1.LimitResponseTypeReject:
	case flowcontrolv1.LimitResponseTypeQueue:
		if r.Queuing == nil {
			f.required(queuing, "")
		} else {
			f.flowQueues(queuing, r.Queuing)
		}
	default:
		oneOf(f, at.field("type"), r.Type, []flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject})
	}
	if r.Queuing != nil && r.Type != flowcontrolv1.LimitResponseTypeQueue {
		f.forbidden(queuing, "")
	}
	f.percent(w.field("lendablePercent"), l.LendablePercent)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		f.invalid(w.field("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer")
	}
}

// flowQueues checks the queues, over which flows are spread by hands dealt from a hash of limited size.
func (f *faults) flowQueues(w *where, q *flowcontrolv1.QueuingConfiguration) {
	if q.QueueLengthLimit <= 0 {
		f.invalid(w.field("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
	}
	switch n := q.Queues; {
	case n <= 0:
		f.invalid(w.field("queues"), n, "must be positive")
	case n > maxFlowQueues:
		f.invalid(w.field("queues"), n, fmt.Sprintf("must not be greater than %d", maxFlowQueues))
	}
	hand := w.field("handSize")
	switch n := q.HandSize; {
	case n <= 0:
		f.invalid(hand, n, "must be positive")
	case n > q.Queues:
		f.invalid(hand, n, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
	case shufflesharding.RequiredEntropyBits(int(q.Queues), int(n)) > shufflesharding.MaxHashBits:
		f.invalid(hand, n, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, n, shufflesharding.MaxHashBits))
	}
}
