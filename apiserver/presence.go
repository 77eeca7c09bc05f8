package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"

	"wherry.dev/wherry/api/kinds"
	"wherry.dev/wherry/store"
)

// How the API servers of one etcd know of each other, as upstream's do, so that they may be servers of either kind.
const (
	// masterLeases is where each server says that it is there, under its address, for as long as masterLease.
	masterLeases  = "masterleases"
	masterLease   = 15 * time.Second
	presenceEvery = 10 * time.Second

	// The identity Lease says the same to whoever asks the API.
	identityLabel      = "apiserver.kubernetes.io/identity"
	identityComponent  = "kube-apiserver"
	identityLease      = time.Hour
	identityEvery      = 10 * time.Second // where other servers are
	identityEveryAlone = 20 * time.Minute // where nobody waits for it: a write is not free

	repairEvery    = 3 * time.Minute
	presenceLimits = 5 * time.Second // of one round; etcd may be away
)

// newMasterLeases opens the record of which servers are there; nil where there is only this one.
func (s *Server) newMasterLeases() (store.Resource, error) {
	if !s.config.Shared || !s.config.Advertise.IsValid() {
		return nil, nil
	}
	//lint:ignore SA1019 this is what upstream keeps there
	r, err := s.config.Storage(&kinds.Kind{GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Endpoints"), Plural: masterLeases, StoragePrefix: masterLeases,
		New: func() runtime.Object { return &corev1.Endpoints{} }, TTL: func(runtime.Object) time.Duration { return masterLease }})
	if err != nil {
		return nil, fmt.Errorf("open storage of %s: %w", masterLeases, err)
	}
	return r, nil
}

// keepPresence says that this server is there, and makes those that are the endpoints of default/kubernetes.
func (s *Server) keepPresence(ctx context.Context, cs kubernetes.Interface) error {
	if !s.config.Advertise.IsValid() {
		return nil
	}
	own := s.config.Advertise.Addr().Unmap().String()
	if s.masterLeases == nil {
		return s.keepEndpoints(ctx, cs, []string{own})
	}
	//lint:ignore SA1019 this is what upstream keeps there
	_, err := s.masterLeases.Update(ctx, "", own, nil, true, func(current *store.Object) (runtime.Object, error) {
		next := &corev1.Endpoints{}
		if current != nil {
			next = current.Object.(*corev1.Endpoints).DeepCopy()
		}
		next.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: own}}}}
		next.Generation++ // a write each time: it renews the etcd lease
		return next, nil
	})
	if err != nil {
		return fmt.Errorf("renew %s/%s: %w", masterLeases, own, err)
	}
	return s.keepOthers(ctx, cs)
}

// keepOthers makes the servers that are there the endpoints of default/kubernetes.
func (s *Server) keepOthers(ctx context.Context, cs kubernetes.Interface) error {
	page, err := s.masterLeases.List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", masterLeases, err)
	}
	var ips []string
	for _, o := range page.Items {
		ips = append(ips, o.Key)
	}
	slices.Sort(ips)
	return s.keepEndpoints(ctx, cs, ips)
}

// runPresence keeps the server's presence known until ctx ends.
func (s *Server) runPresence(ctx context.Context, cs kubernetes.Interface) {
	every, beat := identityEveryAlone, &heartbeat{id: s.config.ID, host: s.config.Host}
	if s.config.Shared {
		every = identityEvery
	}
	if beat.id == "" {
		every = identityLease
	}
	identity, swept, presence, repair := time.NewTimer(0), time.NewTicker(identityLease), time.NewTicker(presenceEvery), time.NewTicker(repairEvery)
	defer identity.Stop()
	for _, t := range []*time.Ticker{swept, presence, repair} {
		defer t.Stop()
	}
	if !s.config.Shared { // nothing changes but by this server
		presence.Stop()
		repair.Stop()
	}
	for {
		var what string
		var do func(context.Context) error
		select {
		case <-ctx.Done():
			return
		case <-identity.C:
			identity.Reset(every)
			what, do = "renew the server's Lease", func(ctx context.Context) error { return beat.renew(ctx, cs) }
		case <-swept.C:
			what, do = "remove Leases of servers that are gone", func(ctx context.Context) error { return sweepIdentities(ctx, cs) }
		case <-presence.C:
			what, do = "keep this server among the endpoints of service kubernetes", func(ctx context.Context) error { return s.keepPresence(ctx, cs) }
		case <-repair.C:
			what, do = "repair the record of what services have claimed", s.repairClaims
		}
		limited, cancel := context.WithTimeout(ctx, presenceLimits)
		if err := do(limited); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) { // in a conflict another server was faster
			s.log.Warn("could not "+what+"; trying again", "error", err)
		}
		cancel()
	}
}

func (s *Server) repairClaims(ctx context.Context) error {
	services := s.resource(corev1.SchemeGroupVersion.WithResource("services"))
	if services == nil || s.claims == nil {
		return nil
	}
	return s.claims.Repair(ctx, services.Store)
}

// retract takes this server away from where the others are told that it is there.
func (s *Server) retract(cs kubernetes.Interface) {
	if s.masterLeases == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout/5)
	defer cancel()
	_, err := s.masterLeases.Delete(ctx, "", s.config.Advertise.Addr().Unmap().String(), nil, nil)
	if err == nil {
		err = s.keepOthers(ctx, cs)
	}
	if err != nil {
		s.log.Debug("could not take this server out of the endpoints of service kubernetes", "error", err)
	}
}

// heartbeat is the server's identity Lease (KEP-1965).
type heartbeat struct {
	id, host string
	holder   string // id and something that no other process of this id has
}

func (h *heartbeat) renew(ctx context.Context, cs kubernetes.Interface) error {
	if h.id == "" {
		return nil
	}
	if h.holder == "" {
		h.holder = h.id + "_" + string(uuid.NewUUID())
	}
	leases := cs.CoordinationV1().Leases(metav1.NamespaceSystem)
	now, seconds := metav1.NowMicro(), int32(identityLease/time.Second)
	have, err := leases.Get(ctx, h.id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: h.id, Namespace: metav1.NamespaceSystem, Labels: map[string]string{identityLabel: identityComponent, corev1.LabelHostname: h.host}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &h.holder, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	next := have.DeepCopy()
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &h.holder, &seconds, &now
	_, err = leases.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// sweepIdentities removes identity Leases that have run out.
func sweepIdentities(ctx context.Context, cs kubernetes.Interface) error {
	leases := cs.CoordinationV1().Leases(metav1.NamespaceSystem)
	list, err := leases.List(ctx, metav1.ListOptions{LabelSelector: identityLabel + "=" + identityComponent})
	if err != nil {
		return err
	}
	for i := range list.Items {
		if l := &list.Items[i]; expiredLease(l, time.Now()) {
			rv := l.ResourceVersion
			err := leases.Delete(ctx, l.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &rv}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	return nil
}

func expiredLease(l *coordinationv1.Lease, now time.Time) bool {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return true
	}
	return l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second).Before(now)
}
