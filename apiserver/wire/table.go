package wire

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"

	"wherry.dev/wherry/store"
)

// TableOptions reads includeObject and noHeaders. The error is a 400 Status.
func TableOptions(q url.Values) (metav1.TableOptions, error) {
	o := metav1.TableOptions{}
	if err := metav1.Convert_url_Values_To_v1_TableOptions(&q, &o, nil); err != nil {
		return o, apierrors.NewBadRequest(err.Error())
	}
	o.NoHeaders = false // upstream keeps this one for itself
	if errs := metav1validation.ValidateTableOptions(&o); len(errs) > 0 {
		return o, apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: %v", errs.ToAggregate()))
	}
	return o, nil
}

// defaultColumns are for kinds that say nothing about printing.
func defaultColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
		{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
	}
}

// Table renders objects, which are of t's kind, as rows. headers false leaves the column definitions out, as in all
// but the first event of a watch.
func (t *Type) Table(a Accept, objects []runtime.Object, lm metav1.ListMeta, o metav1.TableOptions, headers bool, now time.Time) (*metav1.Table, error) {
	table := &metav1.Table{ListMeta: lm, Rows: make([]metav1.TableRow, 0, len(objects))}
	table.SetGroupVersionKind(a.Meta.WithKind("Table"))
	if headers {
		table.ColumnDefinitions = t.Kind.Columns
		if t.Kind.Row == nil {
			table.ColumnDefinitions = defaultColumns()
		}
	}
	for _, obj := range objects {
		row := metav1.TableRow{}
		if t.Kind.Row != nil {
			row.Cells = t.Kind.Row(obj, now)
		} else {
			m, err := meta.Accessor(obj)
			if err != nil {
				return nil, fmt.Errorf("read metadata of %s: %w", t.GVK, err)
			}
			row.Cells = []any{m.GetName(), m.GetCreationTimestamp().UTC().Format(time.RFC3339)}
		}
		if t.Kind.RowConditions != nil {
			row.Conditions = t.Kind.RowConditions(obj)
		}
		switch o.IncludeObject {
		case metav1.IncludeNone:
		case metav1.IncludeObject:
			b, err := t.object.encode(Accept{}, obj)
			if err != nil {
				return nil, err
			}
			row.Object.Raw = b
		default:
			p, err := Partial(a, obj)
			if err != nil {
				return nil, err
			}
			b, err := json.Marshal(p)
			if err != nil {
				return nil, fmt.Errorf("encode row's metadata: %w", err)
			}
			row.Object.Raw = b
		}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

// Partial renders an object's metadata; the metadata is shared with obj.
func Partial(a Accept, obj runtime.Object) (*metav1.PartialObjectMetadata, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("read metadata of %T: %w", obj, err)
	}
	p := meta.AsPartialObjectMetadata(m)
	p.SetGroupVersionKind(a.Meta.WithKind("PartialObjectMetadata"))
	return p, nil
}

// PartialList renders the metadata of a page.
func (t *Type) PartialList(a Accept, l *store.ListResult) (*metav1.PartialObjectMetadataList, error) {
	out := &metav1.PartialObjectMetadataList{ListMeta: ListMeta(l), Items: make([]metav1.PartialObjectMetadata, 0, len(l.Items))}
	out.SetGroupVersionKind(a.Meta.WithKind("PartialObjectMetadataList"))
	for _, o := range l.Items {
		obj, err := t.Served(o)
		if err != nil {
			return nil, err
		}
		p, err := Partial(a, obj)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, *p)
	}
	return out, nil
}
