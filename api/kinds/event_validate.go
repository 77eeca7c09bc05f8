package kinds

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	contentvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Lengths of event texts, from KEP-383.
const (
	eventFieldMax = 128
	eventNoteMax  = 1024
)

func validateCoreEvent(e *corev1.Event) field.ErrorList {
	if errs := validateEvent(e, "reportingComponent"); len(errs) > 0 {
		return errs
	}
	return ValidateMeta(&e.ObjectMeta, true, NameIsPathSegment)
}

// validateCoreEventUpdate is as lax as creation: clients of core/v1 rewrite events (count, lastTimestamp).
func validateCoreEventUpdate(e, old *corev1.Event) field.ErrorList {
	return append(ValidateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta), validateEvent(e, "reportingComponent")...)
}

// validateEvent holds the rules of both APIs. An event with an eventTime was written by a client of the newer API,
// whichever version carried it, and must say who reports what was done.
func validateEvent(e *corev1.Event, controllerField string) (errs field.ErrorList) {
	about := field.NewPath("involvedObject", "namespace")
	mismatch := false
	if e.EventTime.IsZero() {
		if e.InvolvedObject.Namespace == "" {
			mismatch = e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault
		} else {
			mismatch = e.Namespace != e.InvolvedObject.Namespace
		}
	} else if e.InvolvedObject.Namespace == "" {
		mismatch = e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem
	}
	if mismatch {
		errs = append(errs, field.Invalid(about, e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if !e.EventTime.IsZero() {
		controller := field.NewPath(controllerField)
		if e.ReportingController == "" {
			errs = append(errs, field.Required(controller, ""))
		}
		for _, sentence := range contentvalidation.IsQualifiedName(e.ReportingController) {
			errs = append(errs, field.Invalid(controller, e.ReportingController, sentence))
		}
		for _, f := range []struct{ name, value string }{
			{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason},
		} {
			path := field.NewPath(f.name)
			if f.value == "" {
				errs = append(errs, field.Required(path, ""))
			}
			if len(f.value) > eventFieldMax {
				errs = append(errs, field.Invalid(path, "", "can have at most 128 characters"))
			}
		}
		if len(e.Message) > eventNoteMax {
			errs = append(errs, field.Invalid(field.NewPath("message"), "", "can have at most 1024 characters"))
		}
	}
	return errs
}

func validateNewEvent(e *corev1.Event) field.ErrorList {
	errs := validateEvent(e, "reportingController")
	errs = append(errs, ValidateMeta(&e.ObjectMeta, true, NameIsDNSSubdomain)...)
	errs = append(errs, validateEventSeries(e)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	unset := func(isSet bool, name string) {
		if isSet {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	unset(!e.FirstTimestamp.IsZero(), "firstTimestamp")
	unset(!e.LastTimestamp.IsZero(), "lastTimestamp")
	unset(e.Count != 0, "count")
	unset(e.Source.Component != "" || e.Source.Host != "", "source")
	return errs
}

func validateEventSeries(e *corev1.Event) (errs field.ErrorList) {
	if e.Series == nil {
		return nil
	}
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

func validateNewEventUpdate(e, old *corev1.Event) field.ErrorList {
	errs := validateEvent(e, "reportingController")
	errs = append(errs, ValidateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta)...)
	// A series grows; everything else of an event is said once.
	if !apiequality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, validateEventSeries(e)...)
	}
	same := func(name string, a, b any) {
		errs = append(errs, validation.ValidateImmutableField(a, b, field.NewPath(name))...)
	}
	same("involvedObject", e.InvolvedObject, old.InvolvedObject)
	same("reason", e.Reason, old.Reason)
	same("message", e.Message, old.Message)
	same("source", e.Source, old.Source)
	same("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp)
	same("lastTimestamp", e.LastTimestamp, old.LastTimestamp)
	same("count", e.Count, old.Count)
	same("reason", e.Reason, old.Reason)
	same("type", e.Type, old.Type)
	// Etcd and JSON keep microseconds; a client's clock may have been finer.
	if !e.EventTime.Time.Truncate(1000).Equal(old.EventTime.Time.Truncate(1000)) {
		same("eventTime", e.EventTime, old.EventTime)
	}
	same("action", e.Action, old.Action)
	same("related", e.Related, old.Related)
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
	return errs
}
