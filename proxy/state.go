package proxy

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/lifecycle"
)

// maxMoves bounds the pods whose spans wait for a transaction; beyond, spans are lost, nothing else.
const maxMoves = 8192

// state is what the API has told so far. Event handlers write it, the loop in Run takes from it. It holds the informers' own objects.
type state struct {
	node string

	mu       sync.Mutex // guards all below
	services map[name]*corev1.Service
	slices   map[name]map[string]*discoveryv1.EndpointSlice // by Service, then by the slice's name
	dirty    map[name]bool
	place    Place
	podCIDRs []netip.Prefix
	nodeIPs  []netip.Addr
	moved    bool // place, podCIDRs or nodeIPs changed
	moves    []move
	revision uint64 // highest resourceVersion of the EndpointSlice events so far
	leaving  bool   // an endpoint became terminating or went since the last take

	changed chan struct{} // capacity 1: there is something to take
}

// move is a pod that began (C14) or ceased (D3) to be a ready endpoint.
type move struct {
	stage     lifecycle.Stage
	uid       string
	pod       name
	service   name
	addresses string
	at        time.Time
}

func newState(node string) *state {
	return &state{node: node, place: Place{Node: node}, services: map[name]*corev1.Service{}, slices: map[name]map[string]*discoveryv1.EndpointSlice{},
		dirty: map[name]bool{}, changed: make(chan struct{}, 1)}
}

// wake tells the loop that there is something to take.
func (s *state) wake() {
	select {
	case s.changed <- struct{}{}:
	default: // it knows already
	}
}

// work is one batch for the loop.
type work struct {
	services map[name]input
	place    Place
	podCIDRs []netip.Prefix
	nodeIPs  []netip.Addr
	moved    bool
	moves    []move
	revision uint64
	leaving  bool
}

// input is all that decides what one Service needs; a nil service is gone.
type input struct {
	service *corev1.Service
	slices  map[string]*discoveryv1.EndpointSlice
}

// take returns what happened since the last take.
func (s *state) take() work {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := work{services: make(map[name]input, len(s.dirty)), place: s.place, podCIDRs: s.podCIDRs, nodeIPs: s.nodeIPs, moved: s.moved,
		moves: s.moves, revision: s.revision, leaving: s.leaving}
	for n := range s.dirty {
		w.services[n] = input{s.services[n], maps.Clone(s.slices[n])}
	}
	clear(s.dirty)
	s.moves, s.leaving, s.moved = nil, false, false
	return w
}

func (s *state) serviceHandler() cache.ResourceEventHandler {
	set := func(obj any) {
		svc, ok := obj.(*corev1.Service)
		if !ok {
			return
		}
		s.mu.Lock()
		n := nameOf(svc)
		s.services[n], s.dirty[n] = svc, true
		s.mu.Unlock()
		s.wake()
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, obj any) { set(obj) },
		DeleteFunc: func(obj any) {
			if svc, ok := final[*corev1.Service](obj); ok {
				s.mu.Lock()
				n := nameOf(svc)
				delete(s.services, n)
				s.dirty[n] = true
				s.mu.Unlock()
				s.wake()
			}
		},
	}
}

func (s *state) sliceHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if es, ok := obj.(*discoveryv1.EndpointSlice); ok {
				s.slice(nil, es, initial)
			}
		},
		UpdateFunc: func(old, obj any) {
			es, ok := obj.(*discoveryv1.EndpointSlice)
			before, _ := old.(*discoveryv1.EndpointSlice)
			if ok {
				s.slice(before, es, false)
			}
		},
		DeleteFunc: func(obj any) {
			if es, ok := final[*discoveryv1.EndpointSlice](obj); ok {
				s.slice(es, nil, false)
			}
		},
	}
}

// slice takes in one event; old or now is nil for what was not or is no more.
func (s *state) slice(old, now *discoveryv1.EndpointSlice, initial bool) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	if old != nil {
		if n, ok := serviceOf(old); ok {
			delete(s.slices[n], old.Name)
			if len(s.slices[n]) == 0 {
				delete(s.slices, n)
			}
			s.dirty[n] = true
		}
	}
	last := old
	if now != nil {
		last = now
		if n, ok := serviceOf(now); ok {
			if s.slices[n] == nil {
				s.slices[n] = map[string]*discoveryv1.EndpointSlice{}
			}
			s.slices[n][now.Name] = now
			s.dirty[n] = true
		}
	}
	// A deleted object carries the revision of its deletion, unless the deletion itself was missed: then the
	// revision is too low, which is never wrong, and the next event mends it.
	if rv, err := strconv.ParseUint(last.ResourceVersion, 10, 64); err == nil && rv > s.revision {
		s.revision = rv
	}
	if initial {
		// Somebody may wait for what left while this proxy did not run.
		for i := range now.Endpoints {
			if c := now.Endpoints[i].Conditions; c.Terminating != nil && *c.Terminating {
				s.leaving = true
			}
		}
		return
	}
	s.compare(old, now, at)
}

// compare finds the pods that came and went. Callers hold mu.
func (s *state) compare(old, now *discoveryv1.EndpointSlice, at time.Time) {
	before := map[string]*discoveryv1.Endpoint{}
	if old != nil {
		for i := range old.Endpoints {
			if e := &old.Endpoints[i]; ready(e) {
				before[identity(e)] = e
			} else if e.Conditions.Terminating == nil || !*e.Conditions.Terminating {
				before[identity(e)] = nil
			}
		}
	}
	if now != nil {
		for i := range now.Endpoints {
			e := &now.Endpoints[i]
			id := identity(e)
			was, known := before[id]
			switch {
			case ready(e):
				delete(before, id)
				if was == nil {
					s.move(lifecycle.Program, now, e, at)
				}
				continue
			case e.Conditions.Terminating != nil && *e.Conditions.Terminating:
				s.leaving = s.leaving || known
				if was == nil {
					delete(before, id) // got no connections before
				}
			default:
				delete(before, id) // not ready, but it does not leave either
			}
		}
	}
	if len(before) > 0 {
		s.leaving = true
	}
	for _, e := range before {
		if e != nil {
			s.move(lifecycle.Drain, old, e, at)
		}
	}
}

func (s *state) move(stage lifecycle.Stage, es *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, at time.Time) {
	svc, ok := serviceOf(es)
	if ref := e.TargetRef; ok && ref != nil && ref.Kind == "Pod" && ref.UID != "" && len(e.Addresses) > 0 && len(s.moves) < maxMoves {
		s.moves = append(s.moves, move{stage, string(ref.UID), name{ref.Namespace, ref.Name}, svc, e.Addresses[0], at})
	}
}

// identity tells endpoints of one slice apart.
func identity(e *discoveryv1.Endpoint) string {
	id := ""
	if e.TargetRef != nil {
		id = string(e.TargetRef.UID)
	}
	if len(e.Addresses) > 0 {
		id += " " + e.Addresses[0]
	}
	return id
}

func (s *state) nodeHandler() cache.ResourceEventHandler {
	set := func(obj any) {
		n, ok := obj.(*corev1.Node)
		if !ok || n.Name != s.node {
			return
		}
		place := Place{Node: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
		var cidrs []netip.Prefix
		for _, text := range podCIDRs(n) {
			if p, err := netip.ParsePrefix(text); err == nil {
				cidrs = append(cidrs, p.Masked())
			}
		}
		var ips []netip.Addr
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				ips = append(ips, ip)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if place == s.place && slices.Equal(cidrs, s.podCIDRs) && slices.Equal(ips, s.nodeIPs) {
			return
		}
		if place != s.place {
			for n := range s.services {
				s.dirty[n] = true
			}
		}
		s.place, s.podCIDRs, s.nodeIPs, s.moved = place, cidrs, ips, true
		s.wake()
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: set, UpdateFunc: func(_, obj any) { set(obj) }}
}

func podCIDRs(n *corev1.Node) []string {
	if len(n.Spec.PodCIDRs) == 0 && n.Spec.PodCIDR != "" {
		return []string{n.Spec.PodCIDR}
	}
	return n.Spec.PodCIDRs
}

// final is the last known object of a deletion.
func final[T any](obj any) (T, bool) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	t, ok := obj.(T)
	return t, ok
}
