package admit

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func node() *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd", "kubernetes.io/os": "linux"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("3")}}}
}

// pod has one container that asks for so much, and is changed by how.
func pod(uid, cpu, memory string, how ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)}, Spec: v1.PodSpec{NodeName: "n1", Containers: []v1.Container{{Name: "c",
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}}}}}
	for _, f := range how {
		f(p)
	}
	return p
}

func hostPort(ip string, protocol v1.Protocol, number int32) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, v1.ContainerPort{HostIP: ip, Protocol: protocol, HostPort: number, ContainerPort: 80})
	}
}

// TestAdmit: what the node says of a pod beside those it has, in upstream's words.
func TestAdmit(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	noExecute := v1.Taint{Key: "gone", Value: "yes", Effect: v1.TaintEffectNoExecute}
	for name, c := range map[string]struct {
		has    []*v1.Pod
		pod    *v1.Pod
		change func(*v1.Node)
		reason string // "" when it is admitted
		says   string
	}{
		"an empty node":             {nil, pod("a", "2", "1Gi"), nil, "", ""},
		"no CPU":                    {[]*v1.Pod{pod("x", "1500m", "1Mi")}, pod("a", "501m", "1Mi"), nil, "OutOfcpu", "requested: 501, used: 1500, capacity: 2000"},
		"no memory":                 {[]*v1.Pod{pod("x", "1m", "512Mi")}, pod("a", "1m", "513Mi"), nil, "OutOfmemory", "requested: 537919488, used: 536870912, capacity: 1073741824"},
		"the plainer shortage":      {nil, pod("a", "3", "2Gi"), nil, "OutOfcpu", ""},
		"just enough":               {[]*v1.Pod{pod("x", "1500m", "512Mi")}, pod("a", "500m", "512Mi"), nil, "", ""},
		"too many pods":             {[]*v1.Pod{pod("x", "0", "0"), pod("y", "0", "0"), pod("z", "0", "0")}, pod("a", "0", "0"), nil, "OutOfpods", "requested: 1, used: 3, capacity: 3"},
		"what the node has none of": {nil, pod("a", "1", "1Mi", func(p *v1.Pod) { p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1") }), nil, "OutOfexample.com/gpu", ""},
		"init containers count when they are the most": {nil, pod("a", "1", "1Mi", func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "i", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse("3")}}}}
		}), nil, "OutOfcpu", "requested: 3000"},
		"sidecars count with the containers": {nil, pod("a", "1500m", "1Mi", func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "s", RestartPolicy: &always, Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"cpu": resource.MustParse("600m")}}}}
		}), nil, "OutOfcpu", "requested: 2100"},
		"a port in use":                {[]*v1.Pod{pod("x", "0", "0", hostPort("", "", 80))}, pod("a", "0", "0", hostPort("", v1.ProtocolTCP, 80)), nil, "NodePorts", ""},
		"a port in use on all":         {[]*v1.Pod{pod("x", "0", "0", hostPort("", "", 80))}, pod("a", "0", "0", hostPort("10.0.0.1", "", 80)), nil, "NodePorts", ""},
		"a port of another address":    {[]*v1.Pod{pod("x", "0", "0", hostPort("10.0.0.2", "", 80))}, pod("a", "0", "0", hostPort("10.0.0.1", "", 80)), nil, "", ""},
		"a port of another protocol":   {[]*v1.Pod{pod("x", "0", "0", hostPort("", v1.ProtocolUDP, 80))}, pod("a", "0", "0", hostPort("", "", 80)), nil, "", ""},
		"a selector that does not fit": {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), nil, "NodeAffinity", ""},
		"a selector that fits":         {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), nil, "", ""},
		"another node's":               {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.NodeName = "n2" }), nil, "NodeName", ""},
		"another system":               {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }), nil, "PodOSNotSupported", ""},
		"a selector of another system": {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "windows"} }), nil, "PodOSSelectorNodeLabelDoesNotMatch", ""},
		"a taint":                      {nil, pod("a", "0", "0"), func(n *v1.Node) { n.Spec.Taints = []v1.Taint{noExecute} }, "TaintToleration", "untolerated taint {gone: yes}"},
		"a taint that it tolerates": {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}} }),
			func(n *v1.Node) { n.Spec.Taints = []v1.Taint{noExecute} }, "", ""},
		"a taint for the scheduler alone": {nil, pod("a", "0", "0"), func(n *v1.Node) {
			n.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}
		}, "", ""},
		"a taint and the node's own pod": {nil, pod("a", "0", "0", func(p *v1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.source": "file"} }),
			func(n *v1.Node) { n.Spec.Taints = []v1.Taint{noExecute} }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := node()
			if c.change != nil {
				c.change(n)
			}
			l := New(func() *v1.Node { return n })
			for _, p := range c.has {
				if r := l.Admit(p, false); r != nil {
					t.Fatalf("%s: %+v", p.Name, r)
				}
			}
			r := l.Admit(c.pod, false)
			switch {
			case c.reason == "" && r != nil:
				t.Errorf("rejected: %+v", *r)
			case c.reason != "" && (r == nil || r.Reason != c.reason || !strings.Contains(r.Message, c.says)):
				t.Errorf("%+v, want %s with %q", r, c.reason, c.says)
			}
			if r := l.Admit(c.pod, true); r != nil {
				t.Errorf("it runs already, and is rejected: %+v", *r)
			}
		})
	}
}

// TestReleaseGivesBack: whatever a pod was promised is free again, once.
func TestReleaseGivesBack(t *testing.T) {
	l := New(node)
	whole := func(uid string) *v1.Pod { return pod(uid, "2", "1Gi", hostPort("", "", 80)) }
	if r := l.Admit(whole("a"), false); r != nil {
		t.Fatal(r)
	}
	if r := l.Admit(whole("a"), false); r != nil {
		t.Errorf("asking again: %+v", r)
	}
	if r := l.Admit(whole("b"), false); r == nil {
		t.Error("the same room was promised twice")
	}
	l.Release("b") // never had it
	if r := l.Admit(whole("b"), false); r == nil {
		t.Error("giving back what it never had made room")
	}
	for range 2 {
		l.Release("a")
	}
	if r := l.Admit(whole("b"), false); r != nil {
		t.Errorf("after it was given back: %+v", r)
	}
	if r := l.Admit(whole("c"), false); r == nil {
		t.Error("giving back twice made room for two")
	}
}

// TestUnknownNode: while the API server has not told what the node is, nothing is held against it.
func TestUnknownNode(t *testing.T) {
	l := New(func() *v1.Node { return nil })
	if r := l.Admit(pod("a", "1000", "1Ti"), false); r != nil {
		t.Error(r)
	}
}

// TestTogether: pods that arrive at once are not promised the same room.
func TestTogether(t *testing.T) {
	n := node()
	n.Status.Allocatable["pods"] = resource.MustParse("1000")
	l := New(func() *v1.Node { return n })
	var admitted atomic.Int32
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if l.Admit(pod(fmt.Sprint(i), "100m", "1Mi"), false) == nil {
				admitted.Add(1)
			}
		})
	}
	all.Wait()
	if admitted.Load() != 20 {
		t.Errorf("%d pods of 100m on 2 CPUs", admitted.Load())
	}
}
