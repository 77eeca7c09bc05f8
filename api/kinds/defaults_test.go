package kinds

import (
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestAmountsAreRounded: what is finer than etcd's older values were is rounded up.
func TestAmountsAreRounded(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Capacity: corev1.ResourceList{"odd": resource.MustParse("100u"), "cpu": resource.MustParse("1500m")}}}
	defaultNode(node)
	for name, want := range map[corev1.ResourceName]string{"odd": "1m", "cpu": "1500m"} {
		if q := node.Status.Capacity[name]; q.String() != want {
			t.Errorf("%s is %s, want %s", name, q.String(), want)
		}
	}
}

// TestDefaultsWriteNothingThatIsThere: objects share what is equal in them, and a patch leaves what it does not touch as it lies in the stored object, which others
// read at the same time. So defaults of what has them already are no write, also not of the same value: the runtime ends the process when a map is written while it is read.
func TestDefaultsWriteNothingThatIsThere(t *testing.T) {
	for _, k := range All() {
		if k.Default == nil {
			continue
		}
		t.Run(k.Plural, func(t *testing.T) {
			t.Parallel()
			for seed := range int64(20) {
				stored := k.New()
				filler(seed).Fill(stored)
				k.Default(stored)
				shared := reflect.ValueOf(stored).Elem()
				var reader sync.WaitGroup
				var done atomic.Bool
				reader.Go(func() {
					for !done.Load() {
						stored.DeepCopyObject()
					}
				})
				for range 50 {
					other := reflect.New(shared.Type())
					other.Elem().Set(shared)
					k.Default(other.Interface().(runtime.Object))
				}
				done.Store(true)
				reader.Wait()
			}
		})
	}
}
