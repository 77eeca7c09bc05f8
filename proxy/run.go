package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/trace"
)

// Config is what the proxy needs. It works in the network namespace of its process.
type Config struct {
	// Client reads Services, EndpointSlices and Nodes, through its shared informers. Run does not start the factory. Required.
	Client *client.Set
	// NodeName is this node's. Required.
	NodeName string
	// ServiceCIDRs are the ranges of cluster IPs: what is addressed to them and belongs to no Service is dropped, and they get a route.
	ServiceCIDRs []netip.Prefix
	// Table is the nftables table of this proxy (family inet); default DefaultTable.
	Table string
	// Progress hears how far the kernel has come; may be nil.
	Progress Progress
	// Trace takes the spans program and drain; nil drops them.
	Trace trace.Recorder
	// Log defaults to slog.Default().
	Log *slog.Logger
	// Ready is called once, when the kernel has every Service known at the start; may be nil.
	Ready func()
}

// Progress hears the highest EndpointSlice resourceVersion whose consequences are in force, in ascending order. leaving says that
// in one of the events up to it, and after the last call's, an endpoint became terminating or went away. It must not block.
type Progress interface {
	Reached(revision uint64, leaving bool)
}

type nowhere struct{}

func (nowhere) Reached(uint64, bool) {}

const (
	retryFirst = 100 * time.Millisecond
	retryMost  = 10 * time.Second
	// repairPause keeps two programs that fight over the table from burning the node's CPU.
	repairPause = time.Second
)

// Run keeps the kernel as the Services want it, until ctx ends. The table stays behind, so that traffic flows
// while the process restarts; Cleanup removes it.
func Run(ctx context.Context, c Config) error {
	if c.Table == "" {
		c.Table = DefaultTable
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Trace == nil {
		c.Trace = trace.Nop{}
	}
	if c.Progress == nil {
		c.Progress = nowhere{}
	}
	k, err := openKernel(c.Table, c.ServiceCIDRs)
	if err != nil {
		return err
	}
	defer k.close()
	p := &proxy{Config: c, kernel: k, state: newState(c.NodeName), table: NewTable(), health: newHealth(c.Log), flows: newFlows(c.Log), handshakes: newHandshakes(c.Progress, c.Log)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.health.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.repair = make(chan doubt, 1)
	if p.monitor, err = watchTable(c.Table, p.repair, c.Log); err != nil {
		return err
	}
	wg.Go(func() { p.monitor.run(ctx) })
	wg.Go(func() { p.flows.run(ctx) })
	wg.Go(func() { p.handshakes.run(ctx) })

	stop, err := p.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return p.loop(ctx)
}

type proxy struct {
	Config
	kernel     *kernel
	state      *state
	table      *Table
	health     *health
	flows      *flows
	handshakes *handshakes
	monitor    *monitor
	repair     chan doubt
	gone       []way // by which new connections went before the transaction that is to succeed
}

// listen registers with the informers and waits until what they hold has arrived in state. stop unregisters.
func (p *proxy) listen(ctx context.Context) (stop func(), err error) {
	f := p.Client.Informers
	slices := f.Discovery().V1().EndpointSlices().Informer()
	services := f.Core().V1().Services().Informer()
	nodes := f.Core().V1().Nodes().Informer()
	if !cache.WaitFor(ctx, "", slices.HasSyncedChecker(), services.HasSyncedChecker(), nodes.HasSyncedChecker()) {
		return nil, fmt.Errorf("wait for services and endpoints: %w", ctx.Err())
	}
	// What the store has seen by now is part of what a new handler is given first.
	listed, _ := strconv.ParseUint(slices.GetStore().LastStoreSyncResourceVersion(), 10, 64)
	var undo []func()
	stop = func() {
		for _, u := range undo {
			u()
		}
	}
	var synced []cache.DoneChecker
	for _, r := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{{nodes, p.state.nodeHandler()}, {services, p.state.serviceHandler()}, {slices, p.state.sliceHandler()}} {
		reg, err := r.informer.AddEventHandler(r.handler)
		if err != nil {
			stop()
			return nil, fmt.Errorf("listen to services and endpoints: %w", client.Refused(r.informer, err))
		}
		undo = append(undo, func() { _ = r.informer.RemoveEventHandler(reg) })
		synced = append(synced, reg.HasSyncedChecker())
	}
	if !cache.WaitFor(ctx, "", synced...) {
		stop()
		return nil, fmt.Errorf("wait for services and endpoints: %w", ctx.Err())
	}
	p.state.mu.Lock()
	p.state.revision = max(p.state.revision, listed)
	p.state.mu.Unlock()
	return stop, nil
}

// loop programs one batch after another: the first event at once, and with it and after it whatever came meanwhile.
func (p *proxy) loop(ctx context.Context) error {
	var (
		all     = true // load the whole table
		moves   []move // whose transaction has not succeeded yet
		leaving bool
		retry   = retryFirst
		timer   <-chan time.Time
		ready   = p.Ready
		pause   <-chan time.Time // while it runs, repairs wait
	)
	p.state.wake()
	for {
		repair := p.repair
		if pause != nil {
			repair = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.state.changed:
			if timer != nil && all {
				continue // the whole table waits for its retry, and takes this along
			}
		case why := <-repair:
			p.Log.Warn(string(why), "table", p.Table)
			all, pause = true, time.After(repairPause)
		case <-pause:
			pause = nil
			continue
		case <-timer:
		}
		timer = nil
		w := p.state.take()
		moves, leaving = append(moves, w.moves...), leaving || w.leaving
		if err := p.program(w, all); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.Log.Error("program services", "err", err, "retry", retry)
			p.monitor.follow(p.kernel.port) // the kernel's connection may be another one now
			all, timer, retry = true, time.After(retry), min(2*retry, retryMost)
			continue
		}
		all, retry = false, retryFirst
		p.handshakes.reached(w.revision, leaving, p.gone)
		p.record(moves)
		moves, leaving, p.gone = nil, false, nil
		if ready != nil {
			ready()
			ready = nil
		}
	}
}

// program makes the kernel follow one batch.
func (p *proxy) program(w work, all bool) error {
	if w.moved || all {
		if err := routeServices(p.ServiceCIDRs, w.nodeIPs); err != nil {
			p.Log.Warn("route the service range", "err", err)
		}
		if err := p.kernel.setPodCIDRs(w.podCIDRs, !all); err != nil {
			return err
		}
	}
	for n, in := range w.services {
		var d Desired
		if in.service != nil {
			d = Frontends(in.service, Endpoints(in.slices), w.place)
		}
		p.flows.compare(p.table.services[n], d.Frontends)
		p.gone = append(p.gone, departed(p.table.services[n], d.Frontends)...)
		p.health.set(n, d)
		p.table.Set(n, d)
	}
	if all {
		if err := p.kernel.load(p.table.All()); err != nil {
			return err
		}
	} else if c := p.table.Take(); !c.Empty() || w.moved {
		if err := p.kernel.apply(c); err != nil {
			return err
		}
	}
	p.monitor.ignore(p.kernel.port)
	p.flows.start(p.kernel.podCIDRs)
	return nil
}

func (p *proxy) record(moves []move) {
	end := time.Now()
	for _, m := range moves {
		p.Trace.Record(trace.Span{PodUID: m.uid, Namespace: m.pod.namespace, Pod: m.pod.name, Stage: m.stage, Component: "proxy", Node: p.NodeName,
			Detail: m.service.String(), Start: m.at, End: end, Outcome: trace.OK,
			Attrs: []trace.Attr{{Key: "service", Value: m.service.String()}, {Key: "address", Value: m.addresses}}})
	}
}
