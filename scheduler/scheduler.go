// Package scheduler gives each pod a node (stage C6): queue, snapshot, filter, score, bind. One goroutine decides, from a
// snapshot that nothing else touches; binds run beside it, many at once. It sees the cluster through client.Set only.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"wherry.dev/wherry/client"
	"wherry.dev/wherry/scheduler/plugins"
	"wherry.dev/wherry/trace"
)

// Config is what a scheduler needs.
type Config struct {
	Client *client.Set
	Trace  trace.Recorder
	Log    *slog.Logger
	// Name is the spec.schedulerName it serves; "" for default-scheduler.
	Name string
	// Ready, if set, is called once when decisions begin.
	Ready func()
}

const (
	// eventBuffer decouples the informers from decisions; a full buffer holds the informer up, and loses nothing.
	eventBuffer = 4096
	// bindsInFlight bounds the binds that run beside deciding. Behind it, deciding waits.
	bindsInFlight = 128
	// classesKept bounds the answers remembered for kinds of pods.
	classesKept = 64
)

// scheduler is one running scheduler. All its fields but the channels and the recorder belong to the goroutine of Run.
type scheduler struct {
	Config
	filters  []plugins.Filter
	scores   []plugins.Score
	queue    *queue
	snapshot *snapshot
	classes  map[string]*class
	turn     uint64
	random   *rand.Rand
	recorder events.EventRecorder

	incoming chan func()   // changes of the cluster, applied in order
	bound    chan bindDone // results of binds
	inFlight int
	work     sync.WaitGroup // binds and condition patches
}

// Run schedules until ctx ends, and returns when every bind it began has ended.
func Run(ctx context.Context, c Config) error {
	if c.Name == "" {
		c.Name = corev1.DefaultSchedulerName
	}
	s := newScheduler(c)
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: c.Client.Kubernetes.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("start recording events: %w", err)
	}
	defer broadcaster.Shutdown()
	s.recorder = broadcaster.NewRecorder(scheme.Scheme, c.Name)

	nodes := c.Client.Informers.Core().V1().Nodes().Informer()
	pods := c.Client.Informers.Core().V1().Pods().Informer()
	nodeHandler, err := nodes.AddEventHandler(s.nodeEvents(ctx))
	if err != nil {
		return fmt.Errorf("watch nodes: %w", client.Refused(nodes, err))
	}
	defer func() { _ = nodes.RemoveEventHandler(nodeHandler) }()
	podHandler, err := pods.AddEventHandler(s.podEvents(ctx))
	if err != nil {
		return fmt.Errorf("watch pods: %w", client.Refused(pods, err))
	}
	defer func() { _ = pods.RemoveEventHandler(podHandler) }()
	budgets := c.Client.Informers.Policy().V1().PodDisruptionBudgets().Informer() // read when pods are preempted
	c.Client.Informers.Start(ctx.Done())

	// Nothing is decided before everything that counts on a node is counted. The handlers' channel must be drained
	// meanwhile: its bound may be smaller than the cluster.
	synced := make(chan struct{})
	go func() {
		if cache.WaitFor(ctx, "", nodeHandler.HasSyncedChecker(), podHandler.HasSyncedChecker(), budgets.HasSyncedChecker()) {
			close(synced)
		}
	}()
	for started := false; !started; {
		select {
		case <-ctx.Done():
			return nil
		case f := <-s.incoming:
			f()
		case <-synced:
			started = true
		}
	}
	c.Log.Info("scheduling", "scheduler", c.Name, "nodes", s.snapshot.nodes, "pods", len(s.snapshot.pods))
	if c.Ready != nil {
		c.Ready()
	}
	s.loop(ctx)
	s.work.Wait()
	return nil
}

func newScheduler(c Config) *scheduler {
	filters, scores := plugins.Default()
	if c.Trace == nil {
		c.Trace = trace.Nop{}
	}
	return &scheduler{
		Config: c, filters: filters, scores: scores, queue: newQueue(time.Now), snapshot: newSnapshot(), classes: map[string]*class{},
		random:   rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		incoming: make(chan func(), eventBuffer), bound: make(chan bindDone, bindsInFlight),
	}
}

// loop takes in what happened, then decides the next pod, until ctx ends.
func (s *scheduler) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if s.takeIn() {
			continue
		}
		if s.inFlight < bindsInFlight {
			if w := s.queue.next(); w != nil {
				s.decide(ctx, w)
				continue
			}
		}
		var clock <-chan time.Time
		if due := s.queue.due(); due >= 0 && s.inFlight < bindsInFlight {
			timer.Reset(due)
			clock = timer.C
		}
		select {
		case <-ctx.Done():
		case f := <-s.incoming:
			f()
		case d := <-s.bound:
			s.bindEnded(ctx, d)
		case <-clock:
		}
	}
}

// takeIn applies one waiting change, if there is any. Changes come before decisions: the freshest snapshot decides.
func (s *scheduler) takeIn() bool {
	select {
	case f := <-s.incoming:
		f()
		return true
	case d := <-s.bound:
		s.bindEnded(context.Background(), d)
		return true
	default:
		return false
	}
}

// send hands a change to the deciding goroutine.
func (s *scheduler) send(ctx context.Context, f func()) {
	select {
	case s.incoming <- f:
	case <-ctx.Done():
	}
}
