package scheduler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corehelper "k8s.io/component-helpers/scheduling/corev1"

	"wherry.dev/wherry/scheduler/plugins"
)

// Preemption (upstream's DefaultPreemption): a pod that fits nowhere may take the place of pods with a lower priority. The node
// that loses least is chosen, its victims are deleted gracefully, and the pod is nominated: until it is bound, its room on
// the node counts as taken, and who has a higher priority may take that room in turn.

// How many nodes are tried: upstream's minCandidateNodesPercentage and minCandidateNodesAbsolute.
const (
	candidateShare   = 10 // percent of the nodes
	candidateMinimum = 100
)

// candidate is a node on which the pod would fit, and who would have to go.
type candidate struct {
	slot       int
	victims    []*corev1.Pod // the most important first
	nominated  []types.UID   // pods of lower priority that only have a claim on the room
	violations int           // victims that a disruption budget does not let go
}

// preempt looks for a node on which pods of lower priority could make room. Without one, the message says why, in upstream's words. The
// pod's own nomination is out of the snapshot; it stays only while those who make room for the pod are leaving.
func (s *scheduler) preempt(w *waiting, c *class) (*candidate, string) {
	pod := w.pod
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		w.nominated = ""
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if s.victimsLeaving(w, c) {
		s.nominate(w, w.nominated)
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	w.nominated = ""
	priority := corehelper.PodPriority(pod.Pod)
	lower := s.snapshot.anyBelow(priority)
	limit := max(candidateMinimum, s.snapshot.nodes*candidateShare/100)
	counts := map[string]int{}
	var candidates []*candidate
	var budgets []*policyv1.PodDisruptionBudget
	slots := len(s.snapshot.slots)
	offset := s.random.IntN(slots) // so that it is not always the same nodes that lose their pods
	for i := range slots {
		slot := (i + offset) % slots
		node := s.snapshot.slots[slot]
		if node == nil || node.Node == nil {
			continue
		}
		if !c.relievable(pod, node) {
			counts["Preemption is not helpful for scheduling"]++
			continue
		}
		if !lower {
			counts["No preemption victims found for incoming pod"]++
			continue
		}
		if budgets == nil {
			budgets = s.disruptionBudgets()
		}
		found, why := s.victims(pod, priority, c, slot, budgets)
		if found == nil {
			for _, reason := range why {
				counts[reason]++
			}
			continue
		}
		if candidates = append(candidates, found); len(candidates) == limit {
			break
		}
	}
	if len(candidates) == 0 {
		return nil, unavailable(s.snapshot.nodes, counts)
	}
	best := slices.MinFunc(candidates, compareCandidates)
	return best, fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", s.snapshot.slots[best.slot].Name, len(best.victims))
}

// victimsLeaving reports whether those who make room for the pod are still on their way out, and the room will do.
func (s *scheduler) victimsLeaving(w *waiting, c *class) bool {
	slot, ok := s.snapshot.index[w.nominated]
	if !ok {
		return false
	}
	node := s.snapshot.slots[slot]
	if node.Node == nil || !c.relievable(w.pod, node) {
		return false
	}
	for uid, other := range s.snapshot.on[slot] {
		if slices.Contains(w.victims, uid) || other.pod.DeletionTimestamp != nil && preempted(other.pod.Pod) {
			return true
		}
	}
	return false
}

func preempted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// relievable reports whether nothing but other pods keeps the pod off the node.
func (c *class) relievable(pod *plugins.Pod, node *plugins.Node) bool {
	for _, f := range c.filters {
		if f.Filter(pod, node) == "" {
			continue
		}
		if r, ok := f.(plugins.Relievable); !ok || !r.Relievable(pod, node) {
			return false
		}
	}
	return true
}

// fitsOn asks every filter.
func (c *class) fitsOn(pod *plugins.Pod, node *plugins.Node) bool {
	return !slices.ContainsFunc(c.filters, func(f plugins.Filter) bool { return f.Filter(pod, node) != "" })
}

// victims finds the fewest and least important pods whose going makes room on the node; nil with the reasons when even all would not do.
// It takes pods out of the snapshot's node and puts every one back before it returns.
func (s *scheduler) victims(pod *plugins.Pod, priority int32, c *class, slot int, budgets []*policyv1.PodDisruptionBudget) (*candidate, []string) {
	node := s.snapshot.slots[slot]
	var lower []*placed
	found := &candidate{slot: slot}
	for uid, p := range s.snapshot.on[slot] {
		if corehelper.PodPriority(p.pod.Pod) >= priority {
			continue
		}
		node.Add(p.pod, -1)
		defer func() { node.Add(p.pod, 1) }()
		if p.nominated {
			found.nominated = append(found.nominated, uid)
			continue
		}
		lower = append(lower, p)
	}
	if len(lower) == 0 && len(found.nominated) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	if !c.fitsOn(pod, node) {
		return nil, c.reasonsOn(pod, node)
	}
	slices.SortFunc(lower, func(a, b *placed) int { return compareImportance(a.pod.Pod, b.pod.Pod) })
	violating, rest := protected(lower, budgets)
	// Whoever can stay stays: first those whom a budget protects, then the others, the most important first.
	var stay []*placed
	for i, list := range [][]*placed{violating, rest} {
		for _, p := range list {
			node.Add(p.pod, 1)
			if c.fitsOn(pod, node) {
				stay = append(stay, p)
				continue
			}
			node.Add(p.pod, -1)
			found.victims = append(found.victims, p.pod.Pod)
			if i == 0 {
				found.violations++
			}
		}
	}
	for _, p := range stay {
		node.Add(p.pod, -1)
	}
	slices.SortFunc(found.victims, compareImportance)
	return found, nil
}

// compareImportance puts the more important pod first: by priority, then by who has run for longer.
func compareImportance(a, b *corev1.Pod) int {
	if c := cmp.Compare(corehelper.PodPriority(b), corehelper.PodPriority(a)); c != 0 {
		return c
	}
	return startTime(a).Compare(startTime(b))
}

// startTime of a pod that has not started is now: nothing is lost with it.
func startTime(pod *corev1.Pod) time.Time {
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.Time
	}
	return time.Now()
}

// protected parts pods, which are sorted by importance, into those whose eviction a disruption budget would not allow, and the rest.
func protected(pods []*placed, budgets []*policyv1.PodDisruptionBudget) (violating, rest []*placed) {
	allowed := make(map[*policyv1.PodDisruptionBudget]int32, len(budgets))
	for _, b := range budgets {
		allowed[b] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		breaks := false
		for _, b := range budgets {
			if b.Namespace != p.pod.Namespace || len(p.pod.Labels) == 0 {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[p.pod.Name]; counted {
				continue // the budget has let it go already
			}
			allowed[b]--
			breaks = breaks || allowed[b] < 0
		}
		if breaks {
			violating = append(violating, p)
		} else {
			rest = append(rest, p)
		}
	}
	return violating, rest
}

// disruptionBudgets returns all there are, never nil; without the informer (it never synced) none are known.
func (s *scheduler) disruptionBudgets() []*policyv1.PodDisruptionBudget {
	list, err := s.Client.Informers.Policy().V1().PodDisruptionBudgets().Lister().List(labels.Everything())
	if err != nil || list == nil {
		return []*policyv1.PodDisruptionBudget{}
	}
	return list
}

// compareCandidates puts the node first that loses least, by upstream's criteria in its order: broken budgets, the highest priority
// that goes, the sum of priorities, how many go, and how long the most important of them have run.
func compareCandidates(a, b *candidate) int {
	sum := func(c *candidate) (total int64) {
		for _, v := range c.victims {
			total += int64(corehelper.PodPriority(v)) + math.MaxInt32 + 1 // never negative: more victims are always more
		}
		return total
	}
	highest := func(c *candidate) int64 {
		if len(c.victims) == 0 {
			return math.MinInt64
		}
		return int64(corehelper.PodPriority(c.victims[0]))
	}
	earliest := func(c *candidate) time.Time {
		if len(c.victims) == 0 {
			return time.Time{}
		}
		return startTime(c.victims[0]) // sorted: of the highest priority, the one that started first
	}
	return cmp.Or(cmp.Compare(a.violations, b.violations), cmp.Compare(highest(a), highest(b)), cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.victims), len(b.victims)), earliest(b).Compare(earliest(a)))
}

// evict carries a preemption out: the pod is nominated, whoever had a lesser claim on the room loses it, and the victims are deleted.
func (s *scheduler) evict(ctx context.Context, w *waiting, c *candidate) {
	node := s.snapshot.slots[c.slot].Name
	for _, uid := range c.nominated {
		s.denominate(ctx, uid)
	}
	s.nominate(w, node)
	w.victims = w.victims[:0]
	for _, v := range c.victims {
		w.victims = append(w.victims, v.UID)
	}
	pod := w.pod.Pod
	s.work.Go(func() {
		errs := make([]error, 0, len(c.victims))
		for _, victim := range c.victims {
			errs = append(errs, s.deleteVictim(ctx, victim, pod, node))
		}
		if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
			s.Log.Warn("preempt; deciding again", "pod", pod.Namespace+"/"+pod.Name, "node", node, "error", err)
			s.send(ctx, func() { s.denominate(ctx, pod.UID) })
		}
	})
}

// nominate keeps room for a pod on the node.
func (s *scheduler) nominate(w *waiting, node string) {
	s.snapshot.setPod(w.pod, node, false)
	s.snapshot.pods[w.pod.UID].nominated = true
	w.nominated = node
}

// denominate gives up the room that was kept for a pod, and lets it try elsewhere.
func (s *scheduler) denominate(ctx context.Context, uid types.UID) {
	w, ok := s.queue.pods[uid]
	if !ok || w.nominated == "" {
		return
	}
	s.vacate(w)
	w.nominated = ""
	pod := w.pod.Pod
	s.work.Go(func() { s.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": nil}, "withdraw nomination") })
	if w.place == placeDelayed {
		s.queue.wake(w)
	}
}

// vacate takes a nominated pod's room out of the snapshot.
func (s *scheduler) vacate(w *waiting) {
	if p, ok := s.snapshot.pods[w.pod.UID]; ok && p.nominated {
		s.snapshot.removePod(w.pod.UID)
	}
}

// deleteVictim says on the victim why it goes, and deletes it with its own grace period.
func (s *scheduler) deleteVictim(ctx context.Context, victim, pod *corev1.Pod, node string) error {
	ctx, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	if victim.DeletionTimestamp != nil {
		return nil // it is going already
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": victim.UID}, "status": map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", s.Name),
		ObservedGeneration: victim.Generation, LastTransitionTime: metav1.Now(),
	}}}})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	pods := s.Client.Kubernetes.CoreV1().Pods(victim.Namespace)
	if _, err = pods.Patch(ctx, victim.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err == nil {
		err = pods.Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another pod by that name
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete victim %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.recorder.Eventf(victim, pod, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %s on node %s", pod.UID, node)
	return nil
}

// unavailable counts reasons by text, as upstream's FitError does, in the order of the texts.
func unavailable(nodes int, counts map[string]int) string {
	texts := make([]string, 0, len(counts))
	for _, reason := range slices.Collect(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%d %s", counts[reason], reason))
	}
	slices.Sort(texts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(texts, ", "))
}
