// Command upstream answers what Kubernetes itself makes of a pod. It reads requests as lines of JSON and writes the answers
// likewise. TestPodAnswers records them; it is a module of its own, so that nothing of Kubernetes' server becomes a
// dependency of Wherry. Build it with
//
//	go build -o PROGRAM .
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	"k8s.io/kubernetes/pkg/registry/core/pod"
)

type in struct {
	Op  string  `json:"op"`
	Obj *v1.Pod `json:"obj"`
	Old *v1.Pod `json:"old"`
}
type fe struct{ Type, Field, Detail, Value string }
type out struct {
	Errors   []fe     `json:"errors"`
	Warnings []string `json:"warnings"`
	Obj      *v1.Pod  `json:"obj"`
	Cells    []any    `json:"cells"`
	Panic    string   `json:"panic,omitempty"`
}

func internal(p *v1.Pod) *api.Pod {
	o, err := legacyscheme.Scheme.ConvertToVersion(p, api.SchemeGroupVersion)
	if err != nil {
		panic(err)
	}
	return o.(*api.Pod)
}
func external(p *api.Pod) *v1.Pod {
	o, err := legacyscheme.Scheme.ConvertToVersion(p, v1.SchemeGroupVersion)
	if err != nil {
		panic(err)
	}
	return o.(*v1.Pod)
}

type updater interface {
	PrepareForUpdate(ctx context.Context, obj, old runtime.Object)
	ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList
	WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string
}

var gen = printers.NewTableGenerator()

func one(i in) (o out) {
	defer func() {
		if r := recover(); r != nil {
			o.Panic = fmt.Sprint(r)
		}
	}()
	sub := map[string]string{"status": "status", "ephemeralcontainers": "ephemeralcontainers", "resize": "resize"}[i.Op]
	ctx := genericapirequest.WithRequestInfo(genericapirequest.WithNamespace(context.Background(), i.Obj.Namespace),
		&genericapirequest.RequestInfo{APIVersion: "v1", Resource: "pods", Subresource: sub, IsResourceRequest: true})
	legacyscheme.Scheme.Default(i.Obj)
	if i.Old != nil {
		legacyscheme.Scheme.Default(i.Old)
	}
	p := internal(i.Obj)
	var errs field.ErrorList
	switch i.Op {
	case "print":
		t, err := gen.GenerateTable(p, printers.GenerateOptions{Wide: true})
		if err != nil {
			panic(err)
		}
		o.Cells = t.Rows[0].Cells
		return o
	case "create":
		pod.Strategy.PrepareForCreate(ctx, p)
		errs = pod.Strategy.Validate(ctx, p)
		errs = pod.Strategy.ValidateDeclaratively(ctx, p, nil, errs, operation.Create, rest.DeclarativeValidationConfig{})
		o.Warnings = pod.Strategy.WarningsOnCreate(ctx, p)
	default:
		old := internal(i.Old)
		var s updater = pod.Strategy
		switch i.Op {
		case "status":
			s = pod.StatusStrategy
		case "ephemeralcontainers":
			s = pod.EphemeralContainersStrategy
		case "resize":
			s = pod.ResizeStrategy
		}
		s.PrepareForUpdate(ctx, p, old)
		errs = s.ValidateUpdate(ctx, p, old)
		errs = pod.Strategy.ValidateDeclaratively(ctx, p, old, errs, operation.Update, rest.DeclarativeValidationConfig{})
		o.Warnings = s.WarningsOnUpdate(ctx, p, old)
	}
	for _, e := range errs {
		o.Errors = append(o.Errors, fe{string(e.Type), e.Field, e.Detail, e.ErrorBody()})
	}
	o.Obj = external(p)
	return o
}

func main() {
	printersinternal.AddHandlers(gen)
	capabilities.Setup(true, 0)
	r := bufio.NewReaderSize(os.Stdin, 1<<20)
	w := bufio.NewWriter(os.Stdout)
	d := json.NewDecoder(r)
	e := json.NewEncoder(w)
	for d.More() {
		var i in
		if err := d.Decode(&i); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := e.Encode(one(i)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := w.Flush(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
