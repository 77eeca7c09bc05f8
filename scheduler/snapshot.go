package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corehelper "k8s.io/component-helpers/scheduling/corev1"

	"wherry.dev/wherry/scheduler/plugins"
)

// snapshot is the cluster as decisions see it: every node with what its pods take, assumed pods included. A change to a node
// or a pod costs what that change costs; nobody ever walks all nodes to take it. It belongs to the scheduler's one
// deciding goroutine; nothing in it is locked.
type snapshot struct {
	slots []*plugins.Node // stable places; nil where a node was removed
	index map[string]int  // node name to slot
	free  []int           // slots of removed nodes, to be used again
	nodes int             // slots with a node object

	pods map[types.UID]*placed
	on   []map[types.UID]*placed // by slot: its pods
	// priorities counts the pods of each priority, so that who has nobody below needs no look at any node.
	priorities map[int32]int

	// changed tells each class which slots to look at again. revision grows with every change of any slot.
	revision  uint64
	revisions []uint64 // by slot: the revision of its last change
	journal   []int    // slots in the order of their changes; journal[i] changed at revision journalStart+i+1
	start     uint64
}

// placed is a pod that counts on a node.
type placed struct {
	pod     *plugins.Pod
	slot    int
	assumed bool // decided here, not seen in the API yet
	// nominated says that the pod is not there: others make room for it, and the room is kept.
	nominated bool
}

// journalLimit bounds the journal; a class that fell further behind looks at every node again.
const journalLimit = 1 << 14

func newSnapshot() *snapshot {
	return &snapshot{index: map[string]int{}, pods: map[types.UID]*placed{}, priorities: map[int32]int{}}
}

func (s *snapshot) touch(slot int) {
	s.revision++
	s.revisions[slot] = s.revision
	s.journal = append(s.journal, slot)
	if len(s.journal) > journalLimit {
		drop := len(s.journal) / 2
		s.journal = append(s.journal[:0], s.journal[drop:]...)
		s.start += uint64(drop)
	}
}

// changedSince calls f for every slot that changed after the revision, some perhaps twice; false means that
// the journal does not reach back that far.
func (s *snapshot) changedSince(revision uint64, f func(slot int)) bool {
	if revision < s.start {
		return false
	}
	for _, slot := range s.journal[revision-s.start:] {
		f(slot)
	}
	return true
}

func (s *snapshot) slot(name string) int {
	if i, ok := s.index[name]; ok {
		return i
	}
	var i int
	if n := len(s.free); n > 0 {
		i, s.free = s.free[n-1], s.free[:n-1]
	} else {
		i = len(s.slots)
		s.slots = append(s.slots, nil)
		s.revisions = append(s.revisions, 0)
		s.on = append(s.on, nil)
	}
	s.slots[i] = &plugins.Node{}
	s.index[name] = i
	return i
}

// setNode adds or replaces a node and returns it.
func (s *snapshot) setNode(node *corev1.Node) *plugins.Node {
	i := s.slot(node.Name)
	if s.slots[i].Node == nil {
		s.nodes++
	}
	s.slots[i].Set(node)
	s.touch(i)
	return s.slots[i]
}

// removeNode forgets a node; its slot stays while pods are known to be on it.
func (s *snapshot) removeNode(name string) {
	i, ok := s.index[name]
	if !ok || s.slots[i].Node == nil {
		return
	}
	s.slots[i].Node = nil
	s.nodes--
	s.touch(i)
	s.release(name, i)
}

func (s *snapshot) release(name string, i int) {
	if s.slots[i].Node == nil && s.slots[i].Pods == 0 {
		delete(s.index, name)
		s.slots[i] = nil
		s.free = append(s.free, i)
	}
}

// setPod counts a pod on the node, once, whatever was known of it before.
func (s *snapshot) setPod(pod *plugins.Pod, node string, assumed bool) {
	s.removePod(pod.UID)
	i := s.slot(node)
	s.slots[i].Add(pod, 1)
	p := &placed{pod: pod, slot: i, assumed: assumed}
	s.pods[pod.UID] = p
	if s.on[i] == nil {
		s.on[i] = map[types.UID]*placed{}
	}
	s.on[i][pod.UID] = p
	s.priorities[corehelper.PodPriority(pod.Pod)]++
	s.touch(i)
}

// removePod gives the room back and returns the node that it was on, nil if the pod counted nowhere.
func (s *snapshot) removePod(uid types.UID) *plugins.Node {
	p, ok := s.pods[uid]
	if !ok {
		return nil
	}
	delete(s.pods, uid)
	delete(s.on[p.slot], uid)
	priority := corehelper.PodPriority(p.pod.Pod)
	if s.priorities[priority]--; s.priorities[priority] == 0 {
		delete(s.priorities, priority)
	}
	node := s.slots[p.slot]
	node.Add(p.pod, -1)
	s.touch(p.slot)
	if node.Node == nil {
		for name, i := range s.index { // a removed node's last pod: rare
			if i == p.slot {
				s.release(name, i)
				break
			}
		}
	}
	return node
}

// anyBelow reports whether any pod that counts has a lower priority.
func (s *snapshot) anyBelow(priority int32) bool {
	for p := range s.priorities {
		if p < priority {
			return true
		}
	}
	return false
}
