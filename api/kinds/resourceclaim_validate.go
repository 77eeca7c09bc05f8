package kinds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fewEnough reports whether a list is no longer than it may be.
func (f *faults) fewEnough(w *where, n, most int) bool {
	if n > most {
		f.keep(field.TooMany(w.path(), n, most))
		return false
	}
	return true
}

// requestNames are the requests of a claim, "name" or "name/alternative".
func requestNames(c *resourcev1.DeviceClaim) map[string]bool {
	names := map[string]bool{}
	for _, r := range c.Requests {
		names[r.Name] = true
		for _, alternative := range r.FirstAvailable {
			names[r.Name+"/"+alternative.Name] = true
		}
	}
	return names
}

// deviceClaim checks which devices a claim asks for.
func (f *faults) deviceClaim(w *where, c *resourcev1.DeviceClaim) {
	names := requestNames(c)
	if requests := w.field("requests"); f.fewEnough(requests, len(c.Requests), resourcev1.DeviceRequestsMaxSize) {
		for i := range c.Requests {
			f.deviceRequest(requests.at(i), &c.Requests[i])
			if slices.ContainsFunc(c.Requests[:i], func(r resourcev1.DeviceRequest) bool { return r.Name == c.Requests[i].Name }) {
				f.duplicate(requests.at(i), c.Requests[i].Name)
			}
		}
	}
	if constraints := w.field("constraints"); f.fewEnough(constraints, len(c.Constraints), resourcev1.DeviceConstraintsMaxSize) {
		for i := range c.Constraints {
			at, k := constraints.at(i), &c.Constraints[i]
			f.requestRefs(at.field("requests"), k.Requests, names)
			switch {
			case k.MatchAttribute != nil:
				f.attributeName(at.field("matchAttribute"), string(*k.MatchAttribute))
			case k.DistinctAttribute != nil:
				f.attributeName(at.field("distinctAttribute"), string(*k.DistinctAttribute))
			default:
				f.required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)
			}
		}
	}
	if config := w.field("config"); f.fewEnough(config, len(c.Config), resourcev1.DeviceConfigMaxSize) {
		for i := range c.Config {
			f.requestRefs(config.at(i).field("requests"), c.Config[i].Requests, names)
			f.deviceConfig(config.at(i), &c.Config[i].DeviceConfiguration)
		}
	}
}

// attributeName checks the full name of an attribute: domain and name.
func (f *faults) attributeName(w *where, name string) {
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		f.invalid(w, name, "a fully qualified name must be a domain and a name separated by a slash")
		return
	}
	if domain == "" {
		f.invalid(w, "", "the domain must not be empty")
	} else {
		f.csiDriverName(w, domain)
	}
	if id == "" {
		f.invalid(w, "", "the name must not be empty")
	}
}

func (f *faults) deviceRequest(w *where, r *resourcev1.DeviceRequest) {
	f.requestName(w.field("name"), r.Name)
	alternatives := w.field("firstAvailable")
	switch exactly := r.Exactly; {
	case exactly == nil && len(r.FirstAvailable) == 0:
		f.required(w, "exactly one of `exactly` or `firstAvailable` is required")
	case exactly != nil && len(r.FirstAvailable) > 0:
		f.invalid(w, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
	case exactly != nil:
		at := w.field("exactly")
		f.requestedDevices(at, exactly.DeviceClassName, exactly.Selectors, exactly.AllocationMode, exactly.Count, exactly.Tolerations)
	case f.fewEnough(alternatives, len(r.FirstAvailable), resourcev1.FirstAvailableDeviceRequestMaxSize):
		for i := range r.FirstAvailable {
			s, at := &r.FirstAvailable[i], alternatives.at(i)
			f.requestName(at.field("name"), s.Name)
			f.requestedDevices(at, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations)
			if slices.ContainsFunc(r.FirstAvailable[:i], func(o resourcev1.DeviceSubRequest) bool { return o.Name == s.Name }) {
				f.duplicate(at, s.Name)
			}
		}
	}
}

func (f *faults) requestName(w *where, name string) {
	if name == "" {
		f.required(w, "")
		return
	}
	f.dnsLabel(w, name)
}

func (f *faults) requestedDevices(w *where, class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration) {
	if class == "" {
		f.required(w.field("deviceClassName"), "")
	} else {
		f.dnsSubdomain(w.field("deviceClassName"), class)
	}
	f.deviceSelectors(w.field("selectors"), selectors)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			f.invalid(w.field("count"), count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			f.invalid(w.field("count"), count, "must be greater than zero")
		}
	default:
		notSupported(f, w.field("allocationMode"), mode, []resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount})
	}
	list := w.field("tolerations")
	if !f.fewEnough(list, len(tolerations), resourcev1.DeviceTolerationsMaxLength) {
		return
	}
	for i := range tolerations {
		f.deviceToleration(list.at(i), &tolerations[i])
	}
}

var deviceTaintEffects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func (f *faults) deviceToleration(w *where, t *resourcev1.DeviceToleration) {
	if t.Key != "" {
		f.qualifiedName(w.field("key"), t.Key)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			f.invalid(w.field("value"), t.Value, "must be empty for operator `Exists`")
		}
	case resourcev1.DeviceTolerationOpEqual:
		f.labelValue(w.field("value"), t.Value)
	default:
		oneOf(f, w.field("operator"), t.Operator, []resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists})
	}
	oneOfOrEmpty(f, w.field("effect"), t.Effect, deviceTaintEffects)
}

// deviceSelectors checks selectors but for what their expressions mean: they are compiled by who allocates.
func (f *faults) deviceSelectors(w *where, selectors []resourcev1.DeviceSelector) {
	if !f.fewEnough(w, len(selectors), resourcev1.DeviceSelectorsMaxSize) {
		return
	}
	for i := range selectors {
		at := w.at(i).field("cel")
		if cel := selectors[i].CEL; cel == nil {
			f.required(at, "")
		} else if len(cel.Expression) > resourcev1.CELSelectorExpressionMaxLength {
			f.tooLong(at.field("expression"), "", resourcev1.CELSelectorExpressionMaxLength)
		}
	}
}

// requestRefs checks a list of names of requests.
func (f *faults) requestRefs(w *where, refs []string, names map[string]bool) {
	if !f.fewEnough(w, len(refs), resourcev1.DeviceRequestsMaxSize) {
		return
	}
	for i, ref := range refs {
		f.requestRef(w.at(i), ref, names)
		if slices.Contains(refs[:i], ref) {
			f.duplicate(w.at(i), ref)
		}
	}
}

func (f *faults) requestRef(w *where, ref string, names map[string]bool) {
	const wanted = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	if strings.Count(ref, "/") > 1 {
		f.invalid(w, ref, wanted)
		return
	}
	for part := range strings.SplitSeq(ref, "/") {
		f.requestName(w, part)
	}
	if !names[ref] {
		f.invalid(w, ref, wanted)
	}
}

func (f *faults) deviceConfig(w *where, c *resourcev1.DeviceConfiguration) {
	at := w.field("opaque")
	if c.Opaque == nil {
		f.required(at, "")
		return
	}
	f.csiDriverName(at.field("driver"), c.Opaque.Driver)
	f.jsonObject(at.field("parameters"), &c.Opaque.Parameters, resourcev1.OpaqueParametersMaxLength)
}

// jsonObject checks what only a driver understands.
func (f *faults) jsonObject(w *where, raw *runtime.RawExtension, most int) {
	var v any
	if len(raw.Raw) == 0 {
		f.required(w, "")
	} else if len(raw.Raw) > most {
		f.tooLong(w, "", most)
	} else if err := json.Unmarshal(raw.Raw, &v); err != nil {
		f.invalid(w, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err.Error()))
	} else if v == nil {
		f.required(w, "")
	} else if _, ok := v.(map[string]any); !ok {
		f.invalid(w, "<value omitted>", "must be a valid JSON object")
	}
}

// poolName checks the name of a pool: subdomains with slashes between them.
func (f *faults) poolName(w *where, name string) {
	if name == "" {
		f.required(w, "")
		return
	}
	if len(name) > resourcev1.PoolNameMaxLength {
		f.tooLong(w, "", resourcev1.PoolNameMaxLength)
	}
	for part := range strings.SplitSeq(name, "/") {
		f.dnsSubdomain(w, part)
	}
}
