package faults

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ledger is one client that writes ConfigMaps of its own and remembers what was acknowledged. What got no answer may have happened or
// not, and is never relied on.
type ledger struct {
	prefix string

	mu      sync.Mutex
	created map[string]bool // by name: acknowledged, and not meant to be deleted; guarded by mu
	deleted map[string]bool // deletion acknowledged; guarded by mu
	counter int             // highest acknowledged value; guarded by mu
	writes  int             // acknowledged; guarded by mu
}

func newLedger(i int) *ledger {
	return &ledger{prefix: fmt.Sprintf("ledger-%d", i), created: map[string]bool{}, deleted: map[string]bool{}}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes++
	f()
}

// write creates, counts up and deletes until ctx ends.
func (l *ledger) write(ctx context.Context, kube kubernetes.Interface) {
	maps := kube.CoreV1().ConfigMaps("default")
	value := 0
	for i := 0; ctx.Err() == nil; i++ {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		name := fmt.Sprintf("%s-%d", l.prefix, i)
		if _, err := maps.Create(call, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err == nil {
			if i%3 != 0 {
				l.note(func() { l.created[name] = true })
			} else if err := maps.Delete(call, name, metav1.DeleteOptions{}); err == nil {
				l.note(func() { l.deleted[name] = true })
			}
		}
		value = l.increment(call, kube, value)
		cancel()
	}
}

// increment writes the next value over what is there, which nobody else changes: what is there may not be below what was acknowledged.
func (l *ledger) increment(ctx context.Context, kube kubernetes.Interface, value int) int {
	maps := kube.CoreV1().ConfigMaps("default")
	counter, err := maps.Get(ctx, l.prefix, metav1.GetOptions{})
	next := value + 1
	if apierrors.IsNotFound(err) && value == 0 {
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: l.prefix}, Data: map[string]string{"value": strconv.Itoa(next)}}, metav1.CreateOptions{})
	} else if err == nil {
		counter.Data = map[string]string{"value": strconv.Itoa(next)}
		_, err = maps.Update(ctx, counter, metav1.UpdateOptions{})
	}
	if err == nil {
		l.note(func() { l.counter = next })
	}
	return next
}

// check looks for everything that was acknowledged, and returns how much that was.
func (l *ledger) check(t *testing.T, kube kubernetes.Interface) int {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	list, err := kube.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]*corev1.ConfigMap{}
	for i := range list.Items {
		have[list.Items[i].Name] = &list.Items[i]
	}
	for name := range l.created {
		if have[name] == nil {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	for name := range l.deleted {
		if have[name] != nil {
			t.Errorf("the deletion of %s was acknowledged, and it is there", name)
		}
	}
	if l.counter == 0 || len(l.created) == 0 || len(l.deleted) == 0 {
		t.Errorf("%s wrote too little to tell: counter %d, %d created, %d deleted", l.prefix, l.counter, len(l.created), len(l.deleted))
	}
	if c := have[l.prefix]; c == nil {
		t.Errorf("counter %s is lost", l.prefix)
	} else if got, err := strconv.Atoi(c.Data["value"]); err != nil || got < l.counter {
		t.Errorf("counter %s is %q, acknowledged was %d", l.prefix, c.Data["value"], l.counter)
	}
	return l.writes
}
