package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/client"
	"wherry.dev/wherry/controllers/bootstraptoken"
	"wherry.dev/wherry/controllers/certificates"
	"wherry.dev/wherry/controllers/clusterroleaggregation"
	"wherry.dev/wherry/controllers/disruption"
	"wherry.dev/wherry/controllers/drain"
	"wherry.dev/wherry/controllers/endpoints"
	"wherry.dev/wherry/controllers/endpointslice"
	"wherry.dev/wherry/controllers/namespace"
	"wherry.dev/wherry/controllers/nodeipam"
	"wherry.dev/wherry/controllers/nodelifecycle"
	"wherry.dev/wherry/controllers/podgc"
	"wherry.dev/wherry/controllers/resourcequota"
	"wherry.dev/wherry/controllers/serviceaccount"
)

// runControllers starts every controller, each under an identity of its own.
func (c *controlPlane) runControllers(p *parts) {
	log := c.log.With("part", "controllers")
	recorder := func(name string, set *client.Set) record.EventRecorder { return recordEvents(p, name, set) }
	// as upstream names its controllers' service accounts
	slices := c.controller("endpointslice-controller")
	p.run("endpointslice controller", func(ctx context.Context) error {
		return endpointslice.Run(ctx, endpointslice.Config{Client: slices, Trace: c.collector, Recorder: recorder("endpoint-slice-controller", slices), Log: log})
	})
	p.run("endpoints controller", func(ctx context.Context) error {
		return endpoints.Run(ctx, endpoints.Config{Client: c.controller("endpoint-controller"), Log: log})
	})
	p.run("drain controller", func(ctx context.Context) error {
		return drain.Run(ctx, drain.Config{Client: c.controller("drain-controller"), Log: log})
	})
	lifecycle := c.controller("node-controller")
	aboutNodes := recorder("node-controller", lifecycle)
	p.run("nodeipam controller", func(ctx context.Context) error {
		return nodeipam.Run(ctx, nodeipam.Config{Client: lifecycle, PodCIDR: c.settings.Network.PodCIDR, Recorder: aboutNodes, Log: log})
	})
	p.run("nodelifecycle controller", func(ctx context.Context) error {
		return nodelifecycle.Run(ctx, nodelifecycle.Config{Client: lifecycle, Recorder: aboutNodes, Log: log})
	})
	p.run("namespace controller", func(ctx context.Context) error {
		return namespace.Run(ctx, namespace.Config{Client: c.controller("namespace-controller"), Log: log})
	})
	keys := c.credentials.PKI.Pairs()
	p.run("certificate controller", func(ctx context.Context) error {
		return certificates.Run(ctx, certificates.Config{Client: c.controller("certificate-controller"), CA: keys.CA.Certificate, Key: keys.CA.Key, Log: log})
	})
	p.run("service account controller", func(ctx context.Context) error {
		return serviceaccount.Run(ctx, serviceaccount.Config{Client: c.controller("service-account-controller"), RootCA: keys.CA.CertPEM, Tokens: c.issuer, Log: log})
	})
	p.run("bootstrap token controller", func(ctx context.Context) error {
		return bootstraptoken.Run(ctx, bootstraptoken.Config{Client: c.controller("bootstrap-signer"), Log: log})
	})
	p.run("clusterrole aggregation controller", func(ctx context.Context) error {
		return clusterroleaggregation.Run(ctx, clusterroleaggregation.Config{Client: c.controller("clusterrole-aggregation-controller"), Log: log})
	})
	budgets := c.controller("disruption-controller")
	p.run("disruption controller", func(ctx context.Context) error {
		return disruption.Run(ctx, disruption.Config{Client: budgets, Recorder: recorder("controllermanager", budgets), Log: log})
	})
	p.run("podgc controller", func(ctx context.Context) error {
		return podgc.Run(ctx, podgc.Config{Client: c.controller("pod-garbage-collector"), Log: log})
	})
	p.run("resource quota controller", func(ctx context.Context) error {
		return resourcequota.Run(ctx, resourcequota.Config{Client: c.controller("resourcequota-controller"), Resources: kinds.StoredInNamespaces(kinds.All()), Log: log})
	})
}

// recordEvents gives a component its event recorder, which writes as that component's identity.
func recordEvents(p *parts, name string, set *client.Set) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(p.ctx))
	broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: set.Kubernetes.CoreV1().Events("")})
	context.AfterFunc(p.ctx, broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name})
}
