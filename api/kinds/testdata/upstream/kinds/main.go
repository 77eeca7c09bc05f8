// Command kinds answers what Kubernetes itself makes of a write of any of the kinds below, as the command in the folder
// above does for pods. TestKindAnswers records its answers.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/operation"
	genericvalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	"k8s.io/kubernetes/pkg/apis/authorization"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	authorizationvalidation "k8s.io/kubernetes/pkg/apis/authorization/validation"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
	"k8s.io/utils/clock"
)

type question struct {
	Op       string                  `json:"op"` // create, update, print, or a subresource to update
	Kind     schema.GroupVersionKind `json:"kind"`
	Resource string                  `json:"resource"`
	Obj      json.RawMessage         `json:"obj"`
	Old      json.RawMessage         `json:"old,omitempty"`
}

type fault struct{ Field, Value string }

type answer struct {
	Errors   []fault        `json:"errors"`
	Warnings []string       `json:"warnings"`
	Obj      runtime.Object `json:"obj,omitempty"`
	Columns  []metav1.TableColumnDefinition
	Cells    []any
	Fields   map[string]string `json:"fields,omitempty"`
	Panic    string            `json:"panic,omitempty"`
}

var strategies = map[string]rest.RESTCreateUpdateStrategy{
	"namespaces": namespace.Strategy, "nodes": node.Strategy, "services": service.Strategy, "endpoints": endpoint.Strategy,
	"events": event.Strategy, "configmaps": configmap.Strategy, "secrets": secret.Strategy, "serviceaccounts": serviceaccount.Strategy,
	"leases": lease.Strategy, "endpointslices": endpointslice.Strategy, "roles": role.Strategy, "clusterroles": clusterrole.Strategy,
	"rolebindings": rolebinding.Strategy, "clusterrolebindings": clusterrolebinding.Strategy,
	"certificatesigningrequests": certificates.Strategy, "priorityclasses": priorityclass.Strategy,
	"runtimeclasses": runtimeclass.Strategy, "poddisruptionbudgets": poddisruptionbudget.Strategy,
	"limitranges": limitrange.Strategy, "resourcequotas": resourcequota.Strategy, "storageclasses": storageclass.Strategy,
	"controllerrevisions": controllerrevision.Strategy, "daemonsets": daemonset.Strategy, "deployments": deployment.Strategy,
	"replicasets": replicaset.Strategy, "statefulsets": statefulset.Strategy, "cronjobs": cronjob.Strategy, "jobs": job.Strategy,
	"horizontalpodautoscalers": horizontalpodautoscaler.Strategy, "podtemplates": podtemplate.Strategy, "replicationcontrollers": replicationcontroller.Strategy,
	"persistentvolumes": persistentvolume.Strategy, "persistentvolumeclaims": persistentvolumeclaim.Strategy,
	"volumeattachments": volumeattachment.Strategy, "csinodes": csinode.Strategy, "csidrivers": csidriver.Strategy,
	"csistoragecapacities": csistoragecapacity.Strategy, "volumeattributesclasses": volumeattributesclass.Strategy,
	"ingresses": ingress.Strategy, "ingressclasses": ingressclass.Strategy, "networkpolicies": networkpolicy.Strategy,
	"ipaddresses": ipaddress.Strategy, "servicecidrs": servicecidr.Strategy,
	"flowschemas": flowschema.Strategy, "prioritylevelconfigurations": prioritylevelconfiguration.Strategy,
	"deviceclasses": deviceclass.Strategy, "resourceslices": resourceslice.Strategy,
	"clustertrustbundles": clustertrustbundle.Strategy, "podcertificaterequests": podCertificates, "storageversionmigrations": storagemigration.Strategy,
	"resourceclaims": resourceClaims, "resourceclaimtemplates": resourceclaimtemplate.NewStrategy(plainNamespaces{}),
}

// resourceClaims asks for namespaces, and whether the user may say what devices report.
var podCertificates = podcertificaterequest.NewStrategy()

var resourceClaims = resourceclaim.NewStrategy(plainNamespaces{}, yes{})

type yes struct{}

func (yes) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

// plainNamespaces has every namespace, without labels.
type plainNamespaces struct{ corev1.NamespaceInterface }

func (plainNamespaces) Get(_ context.Context, name string, _ metav1.GetOptions) (*v1.Namespace, error) {
	return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}

// Policies ask nobody whether the writer may read their parameters: Wherry does so in admission.
var policies = validatingadmissionpolicy.NewStrategy(nil, nil)

func init() {
	strategies["mutatingwebhookconfigurations"] = mutatingwebhookconfiguration.Strategy
	strategies["validatingwebhookconfigurations"] = validatingwebhookconfiguration.Strategy
	strategies["validatingadmissionpolicies"] = policies
	strategies["validatingadmissionpolicybindings"] = validatingadmissionpolicybinding.NewStrategy(nil, nil, resolver{})
	strategies["mutatingadmissionpolicies"] = mutatingadmissionpolicy.NewStrategy(nil, nil)
	strategies["mutatingadmissionpolicybindings"] = mutatingadmissionpolicybinding.NewStrategy(nil, nil, resolver{})
	subresources["validatingadmissionpolicies/status"] = validatingadmissionpolicy.NewStatusStrategy(policies)
}

// resolver knows no resource; nobody asks it where there is no authorizer.
type resolver struct{}

func (resolver) Resolve(schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource{}, fmt.Errorf("unknown")
}

var subresources = map[string]rest.RESTUpdateStrategy{
	"namespaces/status": namespace.StatusStrategy, "namespaces/finalize": namespace.FinalizeStrategy,
	"nodes/status": node.StatusStrategy, "services/status": service.StatusStrategy,
	"certificatesigningrequests/status": certificates.StatusStrategy, "certificatesigningrequests/approval": certificates.ApprovalStrategy,
	"poddisruptionbudgets/status": poddisruptionbudget.StatusStrategy, "resourcequotas/status": resourcequota.StatusStrategy,
	"daemonsets/status": daemonset.StatusStrategy, "deployments/status": deployment.StatusStrategy, "replicasets/status": replicaset.StatusStrategy,
	"statefulsets/status": statefulset.StatusStrategy, "cronjobs/status": cronjob.StatusStrategy, "jobs/status": job.StatusStrategy,
	"horizontalpodautoscalers/status": horizontalpodautoscaler.StatusStrategy, "replicationcontrollers/status": replicationcontroller.StatusStrategy,
	"persistentvolumes/status": persistentvolume.StatusStrategy, "persistentvolumeclaims/status": persistentvolumeclaim.StatusStrategy,
	"volumeattachments/status": volumeattachment.StatusStrategy, "csinodes/status": csinode.StatusStrategy,
	"ingresses/status": ingress.StatusStrategy, "servicecidrs/status": servicecidr.StatusStrategy,
	"flowschemas/status": flowschema.StatusStrategy, "prioritylevelconfigurations/status": prioritylevelconfiguration.StatusStrategy,
	"resourceclaims/status":         resourceclaim.NewStatusStrategy(resourceClaims),
	"podcertificaterequests/status": podcertificaterequest.NewStatusStrategy(podCertificates, yes{}, clock.RealClock{}), "storageversionmigrations/status": storagemigration.StatusStrategy,
}

var table = printers.NewTableGenerator()

// decode returns the internal form of an object, with defaults.
func decode(kind schema.GroupVersionKind, data []byte) runtime.Object {
	obj, err := legacyscheme.Scheme.New(kind)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(data, obj); err != nil {
		panic(err)
	}
	legacyscheme.Scheme.Default(obj)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		panic(err)
	}
	return internal
}

func external(kind schema.GroupVersionKind, obj runtime.Object) runtime.Object {
	out, err := legacyscheme.Scheme.UnsafeConvertToVersion(obj, kind.GroupVersion())
	if err != nil {
		panic(err)
	}
	return out
}

func ask(q question) (a answer) {
	defer func() {
		if r := recover(); r != nil {
			a = answer{Panic: fmt.Sprint(r)}
		}
	}()
	obj := decode(q.Kind, q.Obj)
	if q.Op == "print" {
		t, err := table.GenerateTable(obj, printers.GenerateOptions{Wide: true})
		if err != nil {
			panic(err)
		}
		a.Columns = t.ColumnDefinitions
		a.Cells = t.Rows[0].Cells
		return a
	}
	info := &genericapirequest.RequestInfo{
		IsResourceRequest: true, APIGroup: q.Kind.Group, APIVersion: q.Kind.Version, Resource: q.Resource, Verb: q.Op,
	}
	if q.Op != "create" && q.Op != "update" {
		info.Subresource, info.Verb = q.Op, "update"
	}
	ctx := genericapirequest.WithRequestInfo(context.Background(), info)
	ctx = genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})
	var errs field.ErrorList
	strategy := strategies[q.Resource]
	switch {
	case strategy == nil:
		errs = review(obj)
	case q.Op == "create":
		m, err := meta.Accessor(obj)
		if err != nil {
			panic(err)
		}
		ctx = genericapirequest.WithNamespace(ctx, m.GetNamespace())
		strategy.PrepareForCreate(ctx, obj)
		errs = strategy.Validate(ctx, obj)
		errs = declaratively(ctx, strategy, obj, nil, errs, operation.Create)
		if len(errs) == 0 {
			errs = genericvalidation.ValidateObjectMetaAccessor(m, strategy.NamespaceScoped(), path.ValidatePathSegmentName, field.NewPath("metadata"))
		}
		a.Warnings = strategy.WarningsOnCreate(ctx, obj)
		strategy.Canonicalize(obj)
	default:
		old := decode(q.Kind, q.Old)
		var s rest.RESTUpdateStrategy = strategy
		if q.Op != "update" {
			s = subresources[q.Resource+"/"+q.Op]
		}
		m, err := meta.Accessor(obj)
		if err != nil {
			panic(err)
		}
		was, err := meta.Accessor(old)
		if err != nil {
			panic(err)
		}
		m.SetGeneration(was.GetGeneration())
		s.PrepareForUpdate(ctx, obj, old)
		errs = genericvalidation.ValidateObjectMetaAccessorUpdate(m, was, field.NewPath("metadata"))
		errs = append(errs, s.ValidateUpdate(ctx, obj, old)...)
		errs = declaratively(ctx, s, obj, old, errs, operation.Update)
		a.Warnings = s.WarningsOnUpdate(ctx, obj, old)
		s.Canonicalize(obj)
	}
	for _, e := range errs {
		a.Errors = append(a.Errors, fault{e.Field, e.ErrorBody()})
	}
	a.Obj = external(q.Kind, obj)
	legacyscheme.Scheme.Default(a.Obj) // as whoever reads it will find it
	return a
}

func declaratively(ctx context.Context, strategy any, obj, old runtime.Object, errs field.ErrorList, op operation.Type) field.ErrorList {
	s, ok := strategy.(rest.DeclarativeValidationStrategy)
	if !ok {
		return errs
	}
	return s.ValidateDeclaratively(ctx, obj, old, errs, op, s.DeclarativeValidationConfig(ctx, obj, old))
}

// review checks the kinds that are never stored.
func review(obj runtime.Object) field.ErrorList {
	switch obj := obj.(type) {
	case *api.Binding:
		return corevalidation.ValidatePodBinding(obj)
	case *authorization.SubjectAccessReview:
		return authorizationvalidation.ValidateSubjectAccessReview(obj)
	case *authorization.SelfSubjectAccessReview:
		return authorizationvalidation.ValidateSelfSubjectAccessReview(obj)
	case *authorization.LocalSubjectAccessReview:
		return authorizationvalidation.ValidateLocalSubjectAccessReview(obj)
	}
	panic(fmt.Sprintf("no rules for %T", obj))
}

func main() {
	printersinternal.AddHandlers(table)
	in, out := json.NewDecoder(bufio.NewReaderSize(os.Stdin, 1<<20)), bufio.NewWriter(os.Stdout)
	for in.More() {
		var q question
		if err := in.Decode(&q); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := json.NewEncoder(out).Encode(ask(q)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := out.Flush(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
