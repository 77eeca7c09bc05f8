package kinds

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
)

// eventTTL is how long an event is kept, upstream's --event-ttl default.
const eventTTL = time.Hour

// Events is core/v1 events, the version in which both event APIs are stored.
func Events() *Kind {
	k := eventKind()
	k.GroupVersionKind = corev1.SchemeGroupVersion.WithKind("Event")
	k.New = func() runtime.Object { return new(corev1.Event) }
	k.NewList = func() runtime.Object { return new(corev1.EventList) }
	k.Validate = checking(validateCoreEvent)
	k.ValidateUpdate = checkingUpdate(validateCoreEventUpdate)
	k.FieldLabels = append(k.FieldLabels,
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type")
	k.SelectableFields = func(obj runtime.Object) fields.Set {
		e := coreEvent(obj)
		set := eventFields(e, "involvedObject")
		set["reportingComponent"] = firstOf(e.ReportingController, e.Source.Component)
		set["source"] = firstOf(e.Source.Component, e.ReportingController)
		return set
	}
	return k
}

// NewEvents is events.k8s.io/v1 events (KEP-383), the same stored objects in another spelling with stricter rules.
func NewEvents() *Kind {
	k := eventKind()
	k.GroupVersionKind = eventsv1.SchemeGroupVersion.WithKind("Event")
	k.New = func() runtime.Object { return new(eventsv1.Event) }
	k.NewList = func() runtime.Object { return new(eventsv1.EventList) }
	k.Hub = &Hub{
		New:       func() runtime.Object { return new(corev1.Event) },
		HubIsKind: corev1.SchemeGroupVersion.WithKind("Event"),
		ToHub:     func(served runtime.Object) (runtime.Object, error) { return coreEvent(served), nil },
		FromHub:   func(stored runtime.Object) (runtime.Object, error) { return newEvent(stored.(*corev1.Event)), nil },
	}
	k.Validate = eventRule(validateNewEvent)
	k.ValidateUpdate = eventUpdateRule(validateNewEventUpdate)
	k.FieldLabels = append(k.FieldLabels,
		"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid",
		"regarding.apiVersion", "regarding.resourceVersion", "regarding.fieldPath",
		"reason", "reportingController", "type")
	k.SelectableFields = func(obj runtime.Object) fields.Set {
		e := coreEvent(obj)
		set := eventFields(e, "regarding")
		set["reportingController"] = firstOf(e.ReportingController, e.Source.Component)
		return set
	}
	return k
}

// eventKind is what both event APIs share.
func eventKind() *Kind {
	return &Kind{
		Plural:        "events",
		Singular:      "event",
		ShortNames:    []string{"ev"},
		Namespaced:    true,
		Verbs:         all,
		StoragePrefix: "events",
		ValidateName:  NameIsDNSSubdomain,
		FieldLabels:   []string{"metadata.name", "metadata.namespace"},
		TTL:           func(runtime.Object) time.Duration { return eventTTL },
		Columns: []metav1.TableColumnDefinition{
			column("Last Seen", "string", corev1.Event{}.SwaggerDoc()["lastTimestamp"]),
			column("Type", "string", corev1.Event{}.SwaggerDoc()["type"]),
			column("Reason", "string", corev1.Event{}.SwaggerDoc()["reason"]),
			column("Object", "string", corev1.Event{}.SwaggerDoc()["involvedObject"]),
			wideColumn("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
			wideColumn("Source", "string", corev1.Event{}.SwaggerDoc()["source"]),
			column("Message", "string", corev1.Event{}.SwaggerDoc()["message"]),
			wideColumn("First Seen", "string", corev1.Event{}.SwaggerDoc()["firstTimestamp"]),
			wideColumn("Count", "string", corev1.Event{}.SwaggerDoc()["count"]),
			wideNameColumn(),
		},
		Row:                      func(obj runtime.Object, now time.Time) []any { return eventRow(coreEvent(obj), now) },
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// eventFields returns the selectable fields of e, those of the object it is about below prefix.
func eventFields(e *corev1.Event, prefix string) fields.Set {
	set := metaFields(&e.ObjectMeta, true, 11)
	about := &e.InvolvedObject
	set[prefix+".kind"] = about.Kind
	set[prefix+".namespace"] = about.Namespace
	set[prefix+".name"] = about.Name
	set[prefix+".uid"] = string(about.UID)
	set[prefix+".apiVersion"] = about.APIVersion
	set[prefix+".resourceVersion"] = about.ResourceVersion
	set[prefix+".fieldPath"] = about.FieldPath
	set["reason"] = e.Reason
	set["type"] = e.Type
	return set
}

// wideNameColumn is the name of an event, which says little.
func wideNameColumn() metav1.TableColumnDefinition {
	c := nameColumn()
	c.Priority = 1
	return c
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// eventRow prints times as the newer API means them where the older fields are empty: a series knows when it was
// seen last and how often, a single event only when it happened.
func eventRow(e *corev1.Event, now time.Time) []any {
	first, last := age(e.FirstTimestamp, now), age(e.LastTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = age(metav1.Time{Time: e.EventTime.Time}, now)
	}
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := int64(e.Count)
	if e.Series != nil {
		last = age(metav1.Time{Time: e.Series.LastObservedTime.Time}, now)
		count = int64(e.Series.Count)
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source := firstOf(e.Source.Component, e.ReportingController)
	if host := firstOf(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, count, e.Name}
}
