package scheduler

import (
	"math/rand/v2"

	"wherry.dev/wherry/scheduler/plugins"
)

// class holds, for pods on which every rule decides alike, the answer for every node. The pods of one Deployment differ in
// nothing that a rule reads, so that after the first one a decision looks only at the nodes that changed since
// the last: a bind changes one. It belongs to the deciding goroutine.
type class struct {
	filters []plugins.Filter
	scores  []plugins.Score

	revision uint64   // of the snapshot, that answers are true for
	reasons  []string // by slot: why not; "" for feasible slots
	fits     []bool
	raw      [][]int64 // by score, by slot, for feasible slots
	// Where a score is normalized over all feasible nodes, totals depend on each other and are made anew for each decision.
	normalized bool
	tree       tree // of weighted totals, when nothing is normalized
	lastUsed   uint64
}

func newClass(pod *plugins.Pod, filters []plugins.Filter, scores []plugins.Score) *class {
	c := &class{filters: filters, scores: scores, raw: make([][]int64, len(scores))}
	for _, score := range scores {
		if score.Normalize(pod) != plugins.AsIs {
			c.normalized = true
		}
	}
	return c
}

// refresh brings the answers up to the snapshot.
func (c *class) refresh(s *snapshot, pod *plugins.Pod) {
	if grown := len(s.slots); grown > len(c.fits) {
		c.fits = append(c.fits, make([]bool, grown-len(c.fits))...)
		c.reasons = append(c.reasons, make([]string, grown-len(c.reasons))...)
		for i := range c.raw {
			c.raw[i] = append(c.raw[i], make([]int64, grown-len(c.raw[i]))...)
		}
		c.tree.grow(grown)
	}
	if c.revision == 0 || !s.changedSince(c.revision, func(slot int) { c.look(s, pod, slot) }) {
		for slot := range s.slots {
			c.look(s, pod, slot)
		}
	}
	c.revision = s.revision
}

// look answers for one slot.
func (c *class) look(s *snapshot, pod *plugins.Pod, slot int) {
	node := s.slots[slot]
	c.fits[slot], c.reasons[slot] = false, ""
	if node == nil || node.Node == nil {
		c.tree.set(slot, -1)
		return
	}
	for _, f := range c.filters {
		if reason := f.Filter(pod, node); reason != "" {
			c.reasons[slot] = reason
			c.tree.set(slot, -1)
			return
		}
	}
	c.fits[slot] = true
	var total int64
	for i, score := range c.scores {
		c.raw[i][slot] = score.Score(pod, node)
		total += c.raw[i][slot] * score.Weight()
	}
	c.tree.set(slot, total)
}

// best returns the slot with the highest total, one of them by chance when several have it, and -1 when none is feasible.
func (c *class) best(pod *plugins.Pod, random *rand.Rand) int {
	if c.normalized && !c.flat(pod) {
		return c.bestNormalized(pod, random)
	}
	return c.tree.best(random)
}

// flat reports whether every normalized score is zero everywhere: then normalization gives each node the same, and the
// plain totals decide.
func (c *class) flat(pod *plugins.Pod) bool {
	for i, score := range c.scores {
		if score.Normalize(pod) == plugins.AsIs {
			continue
		}
		for slot, fits := range c.fits {
			if fits && c.raw[i][slot] != 0 {
				return false
			}
		}
	}
	return true
}

func (c *class) bestNormalized(pod *plugins.Pod, random *rand.Rand) int {
	highest := make([]int64, len(c.scores))
	for i := range c.scores {
		for slot, fits := range c.fits {
			if fits {
				highest[i] = max(highest[i], c.raw[i][slot])
			}
		}
	}
	best, bestTotal, ties := -1, int64(-1), 0
	for slot, fits := range c.fits {
		if !fits {
			continue
		}
		var total int64
		for i, score := range c.scores {
			total += normalize(c.raw[i][slot], highest[i], score.Normalize(pod)) * score.Weight()
		}
		switch {
		case total > bestTotal:
			best, bestTotal, ties = slot, total, 1
		case total == bestTotal:
			ties++
			if random.IntN(ties) == 0 {
				best = slot
			}
		}
	}
	return best
}

func normalize(score, highest int64, how plugins.Normalization) int64 {
	switch {
	case how == plugins.AsIs:
		return score
	case highest == 0 && how == plugins.Reversed:
		return plugins.MaxScore
	case highest == 0:
		return 0
	}
	scaled := score * plugins.MaxScore / highest
	if how == plugins.Reversed {
		return plugins.MaxScore - scaled
	}
	return scaled
}

// tree is a tournament over slots: each inner place holds the best total below it and how often it occurs, so that one
// slot's change costs the tree's height, and so does an even choice among the best.
type tree struct {
	leaves int // a power of two
	top    []int64
	count  []int32
}

func (t *tree) grow(slots int) {
	if slots <= t.leaves {
		return
	}
	old := *t
	t.leaves = max(t.leaves, 16)
	for t.leaves < slots {
		t.leaves *= 2
	}
	t.top = make([]int64, 2*t.leaves)
	t.count = make([]int32, 2*t.leaves)
	for i := range t.top {
		t.top[i] = -1
	}
	for i := range old.leaves {
		if total := old.top[old.leaves+i]; total >= 0 {
			t.set(i, total)
		}
	}
}

// set gives a slot its total; a negative one takes it out.
func (t *tree) set(slot int, total int64) {
	i := t.leaves + slot
	if t.top[i] == total {
		return
	}
	t.top[i], t.count[i] = total, 1
	if total < 0 {
		t.count[i] = 0
	}
	for i /= 2; i >= 1; i /= 2 {
		l, r := 2*i, 2*i+1
		switch {
		case t.top[l] > t.top[r]:
			t.top[i], t.count[i] = t.top[l], t.count[l]
		case t.top[l] < t.top[r]:
			t.top[i], t.count[i] = t.top[r], t.count[r]
		default:
			t.top[i], t.count[i] = t.top[l], t.count[l]+t.count[r]
		}
	}
}

func (t *tree) best(random *rand.Rand) int {
	if t.leaves == 0 || t.top[1] < 0 {
		return -1
	}
	k := random.Int32N(t.count[1])
	i := 1
	for i < t.leaves {
		l, r := 2*i, 2*i+1
		switch {
		case t.top[l] > t.top[r]:
			i = l
		case t.top[l] < t.top[r]:
			i = r
		case k < t.count[l]:
			i = l
		default:
			k -= t.count[l]
			i = r
		}
	}
	return i - t.leaves
}
