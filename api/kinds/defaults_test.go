package kinds

import (
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestDefaultsWriteNothingThatIsThere: objects share what is equal in them, and a patch leaves what it does not touch as it lies in the stored object, which others
// read at the same time. So defaults of what has them already are no write, also not of the same value: the runtime ends the process when a map is written while it is read.
func TestDefaultsWriteNothingThatIsThere(t *testing.T) {
	amounts := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{"cpu", "memory", "pods", "ephemeral-storage", "example.com/gpu"} {
		amounts[name] = resource.MustParse("1500m")
	}
	amounts["odd"] = resource.MustParse("100u") // is rounded the first time
	node := &corev1.Node{Status: corev1.NodeStatus{Capacity: amounts}}
	defaultNode(node)
	if q := node.Status.Capacity["odd"]; q.String() != "1m" {
		t.Fatalf("rounded to %s", q.String())
	}
	var reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				for range node.Status.Capacity {
				}
			}
		}
	})
	for range 20000 {
		other := &corev1.Node{Status: node.Status}
		defaultNode(other)
	}
	close(stop)
	reader.Wait()
}
